"""What goes into the server's state machine and what comes out: plan, jobs, reports, byte counts."""
