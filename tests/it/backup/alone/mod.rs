//! What loads the machine or kills processes at random moments: nothing else runs beside it.

mod kills;
mod large;
