"""The model package: everything a server needs in one folder, named and checked by its digest."""
