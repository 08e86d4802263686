"""SQLAlchemy and the drivers under the tables: connections, transactions, migrations, leases, copies."""
