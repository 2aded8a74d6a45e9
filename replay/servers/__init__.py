"""Embedded Redis servers: start them, watch them, stop them."""
