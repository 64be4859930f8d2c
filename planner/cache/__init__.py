"""What was found out once, kept on disk: slice tables, programs, plans.

Every file is named by a hash of all that its content depends on, and holds a checksum of it. What is missing, damaged
or foreign is made again; nothing that is wrong is ever read.
"""
