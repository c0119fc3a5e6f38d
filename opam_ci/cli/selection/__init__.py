"""What people name on the command line, and how it is found."""
