"""A device's link, alone or behind an access point that it shares: when does a message arrive?"""
