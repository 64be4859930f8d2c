"""Every name of JAX outside its documented API that we use, each with the versions it was seen in and why there is no other way."""
