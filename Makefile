.PHONY: check lint types tables test
check: lint types tables test

lint:
	ruff check src tests examples tools hubconf.py

types:
	mypy

tables:
	python -m tools.tables --check

test:
	pytest -n 2 --dist loadfile
