"""Rows of Parquet files, whoever wrote them."""
