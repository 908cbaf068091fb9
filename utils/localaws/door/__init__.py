"""The way in: HTTP on 127.0.0.1, who may come in, and the page for people."""
