//! Digests of credentials, remembered for those that came lately.

use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

pub(crate) type Digest = [u8; 32];

/// How many credentials a core remembers.
const SLOTS: usize = 64;

/// Longer ones are digested each time.
const CREDENTIAL_BYTES_MAX: usize = 256;

/// The SHA-256 of credentials. A fleet calls with few keys, and a digest takes ten times as
/// long as a look at the one that was made for the same bytes.
///
/// The slot of a credential follows from a hash with a random key, and its bytes are
/// compared in constant time, so that nobody learns a part of another's key from how long
/// an answer takes.
#[derive(Default)]
pub(crate) struct Digests {
    hasher: RandomState,
    slots: Mutex<Vec<Slot>>,
}

/// A credential and its digest.
type Slot = Option<(Box<[u8]>, Digest)>;

impl Digests {
    /// The digest of a credential.
    pub(crate) fn of(&self, credential: &[u8]) -> Digest {
        if credential.len() > CREDENTIAL_BYTES_MAX {
            return sha256(credential);
        }
        let at = self.hasher.hash_one(credential) as usize % SLOTS;
        let mut slots = self.slots.lock();
        if slots.is_empty() {
            slots.resize(SLOTS, None);
        }
        let slot = &mut slots[at];
        if let Some((known, digest)) = slot
            && bool::from(known.ct_eq(credential))
        {
            return *digest;
        }
        let digest = sha256(credential);
        *slot = Some((credential.into(), digest));
        digest
    }
}

/// The SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_digests_are_those_of_the_bytes() {
        let digests = Digests::default();
        // More than there are slots, so that some are forgotten.
        for _ in 0..2 {
            for number in 0..3 * SLOTS {
                let key = format!("Bearer key-{number}");
                assert_eq!(digests.of(key.as_bytes()), sha256(key.as_bytes()));
                assert_eq!(digests.of(key.as_bytes()), sha256(key.as_bytes()));
            }
        }
        let long = [b'x'; CREDENTIAL_BYTES_MAX + 1];
        assert_eq!(digests.of(&long), sha256(&long));
        assert_eq!(digests.of(&long[1..]), sha256(&long[1..]));
    }
}
