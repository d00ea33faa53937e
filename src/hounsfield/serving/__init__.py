"""What a served model promises, without a server: contract, engine, metrics, client. Imports no kserve."""
