"""Requests of several kinds, and specialists that differ in skill, price and latency: who should answer what."""
