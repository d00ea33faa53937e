"""What cannot be made again (logs, ledger, registry), kept elsewhere; and the drill that it comes back."""
