.PHONY: check lint types test
check: lint types test

lint:
	ruff check src tests examples results hubconf.py

types:
	mypy

test:
	pytest
