"""The SQL database: tables, locks, leases, queries, outages."""
