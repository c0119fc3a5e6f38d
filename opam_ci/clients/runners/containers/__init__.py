"""Containers of podman or docker, and their images."""
