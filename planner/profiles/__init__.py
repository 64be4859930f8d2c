"""Hardware profiles: reading, checking and writing the files that describe machines."""

from planner.profiles.files import cluster as cluster
from planner.profiles.files import profile_names as profile_names
from planner.profiles.files import read_profile as read_profile
from planner.profiles.files import write_profile as write_profile
