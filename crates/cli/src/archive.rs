//! Files as tar archives: made here for a container, and unpacked here from one.
//!
//! | module | what lives there |
//! |---|---|
//! | [`pack`] | the archive of a local file or folder |
//! | [`unpack`] | an archive that nobody vouches for, unpacked so that nothing leads out of its folder |
//! | [`pipe`] | bytes between a stream of messages and code that reads and writes |

pub(crate) mod pack;
pub(crate) mod pipe;
pub(crate) mod unpack;
