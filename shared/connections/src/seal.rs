//! Sealing: a secret encrypted and authenticated, together with the name it belongs to.

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use rand::TryRng as _;
use secrecy::{ExposeSecret as _, SecretBox};
use sha2::{Digest as _, Sha256};

use crate::keyring::KeyError;

/// The form of what is sealed here; another one gets another number.
const VERSION: u8 = 1;

/// Bytes of a nonce. So many may be drawn at random for ever without two being alike.
const NONCE_BYTES: usize = 24;

/// One key.
pub(crate) struct Key {
    bytes: SecretBox<[u8; 32]>,
    id: String,
}

impl Key {
    pub(crate) fn new(bytes: [u8; 32]) -> Self {
        let id = hex(&Sha256::digest(bytes)[..4]);
        Self { bytes: SecretBox::new(Box::new(bytes)), id }
    }

    /// A new one.
    pub(crate) fn random() -> Result<Self, KeyError> {
        Ok(Self::new(random()?))
    }

    /// From 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self::new(bytes))
    }

    /// As 64 hexadecimal digits, for the file.
    pub(crate) fn expose(&self) -> String {
        hex(self.bytes.expose_secret())
    }

    /// Tells keys apart without telling anything about them.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.bytes.expose_secret().into())
    }

    /// Seals `secret` under `name`.
    pub(crate) fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, KeyError> {
        let nonce: [u8; NONCE_BYTES] = random()?;
        let aad = bound(name);
        let payload = Payload { msg: secret, aad: aad.as_bytes() };
        let text = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| KeyError::Unsealable)?;
        Ok([&[VERSION][..], &nonce, &text].concat())
    }

    /// Opens what was sealed under `name`; nothing comes back when anything was changed.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = sealed.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let aad = bound(name);
        let payload = Payload { msg: text, aad: aad.as_bytes() };
        self.cipher().decrypt(&XNonce::from(*nonce), payload).ok()
    }
}

/// What is authenticated beside the secret, so that a row's secret opens in no other row.
fn bound(name: &str) -> String {
    format!("relevo.connection/{VERSION}/{name}")
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0_u8; N];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|_| KeyError::NoRandomness)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_under_its_name_only() {
        let key = Key::random().expect("randomness");
        let sealed = key.seal("shop", b"secret").expect("seals");
        assert_eq!(key.open("shop", &sealed).as_deref(), Some(&b"secret"[..]));
        assert_ne!(key.seal("shop", b"secret").expect("seals"), sealed, "nonces are new");
        assert!(key.open("other", &sealed).is_none());
        assert!(Key::random().expect("randomness").open("shop", &sealed).is_none());
        for changed in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[changed] ^= 1;
            assert!(key.open("shop", &forged).is_none(), "byte {changed}");
        }
        for length in 0..sealed.len() {
            assert!(key.open("shop", &sealed[..length]).is_none());
        }
    }

    #[test]
    fn a_key_is_read_back_from_its_digits() {
        let key = Key::random().expect("randomness");
        let same = Key::parse(&key.expose()).expect("reads back");
        assert_eq!(same.id(), key.id());
        assert_eq!(key.id().len(), 8);
        for wrong in ["", "abc", &"g".repeat(64), &"ñ".repeat(32)] {
            assert!(Key::parse(wrong).is_none(), "{wrong}");
        }
    }
}
