"""What several test files use: small nets, planted records, jobs on digits, servers, and faults."""
