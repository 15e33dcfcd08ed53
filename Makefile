.PHONY: check lint types test
check: lint types test

lint:
	ruff check src tests examples tools hubconf.py

types:
	mypy

test:
	pytest
