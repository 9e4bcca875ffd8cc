"""What stands between a socket and the application: limits, time-outs and the count of connections."""
