"""What people see: photographs read, maps coloured, figures drawn."""
