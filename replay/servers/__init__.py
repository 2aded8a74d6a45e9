"""Embedded Redis servers: starting them, watching them, ending them."""
