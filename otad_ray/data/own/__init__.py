"""Data of the user's own: directories of Parquet files, and .h5ad files."""
