"""Root file systems and the opam roots over them."""
