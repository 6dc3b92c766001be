"""What a device of the fleet needs in virtual time: how long it computes, what it draws."""
