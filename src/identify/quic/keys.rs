//! The keys of a client's Initial packets (RFC 9001 §5): they follow from the connection id, so
//! whoever sees the packet can open it.

use ring::aead::quic::{AES_128, HeaderProtectionKey};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

use super::packet::{Packet, Suite};

/// The length of a header protection sample, and where it begins behind the packet number.
const SAMPLE: usize = 16;
const SAMPLE_AT: usize = 4;

/// ring is used and not rustls's `quic` module: that knows the salts of versions 1, 2 and draft
/// 29 only, and boxes each key.
pub(super) struct Keys {
    packet: LessSafeKey,
    header: HeaderProtectionKey,
    iv: [u8; 12],
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Keys {
    /// The keys that a client uses whose first Destination Connection ID is `dcid`. `None` never
    /// happens: all lengths are right by construction.
    pub(super) fn client(suite: Suite, dcid: &[u8]) -> Option<Self> {
        Self::of(suite, dcid, b"client in")
    }

    /// The keys with which a server answers that client.
    pub(super) fn server(suite: Suite, dcid: &[u8]) -> Option<Self> {
        Self::of(suite, dcid, b"server in")
    }

    fn of(suite: Suite, dcid: &[u8], side: &[u8]) -> Option<Self> {
        let (key, iv, header) = derive(suite, dcid, side)?;
        Some(Self {
            packet: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).ok()?),
            header: HeaderProtectionKey::new(&AES_128, &header).ok()?,
            iv,
        })
    }

    /// Opens `packet` into `room` and answers its frames; `largest` is the largest packet number
    /// so far, which is brought up to date. `None` where these are not the packet's keys.
    pub(super) fn open<'r>(
        &self,
        packet: &Packet<'_>,
        largest: &mut Option<u64>,
        room: &'r mut Vec<u8>,
    ) -> Option<&'r [u8]> {
        room.clear();
        room.extend_from_slice(packet.bytes);
        let sample_at = packet.number_at + SAMPLE_AT;
        let sample = packet.bytes.get(sample_at..sample_at + SAMPLE)?;
        let [first_mask, mask @ ..] = self.header.new_mask(sample).ok()?;
        let first = room.first_mut()?;
        *first ^= first_mask & 0x0f;
        let number_len = usize::from(*first & 3) + 1;
        let (header, payload) = room.split_at_mut_checked(packet.number_at + number_len)?;
        let mut truncated = 0;
        for (byte, mask) in header.get_mut(packet.number_at..)?.iter_mut().zip(mask) {
            *byte ^= mask;
            truncated = truncated << 8 | u64::from(*byte);
        }
        let number = whole_number(truncated, number_len, *largest);
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().skip(4).zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.packet.open_in_place(nonce, Aad::from(&*header), payload).ok()?;
        *largest = (*largest).max(Some(number));
        Some(opened)
    }

    /// Seals the packet number 0, in one byte, and `frames` behind `header`, which ends before the
    /// number; header and frames have 4 bytes of frames at least (RFC 9001 §5.3, §5.4).
    pub(super) fn seal(&self, mut header: Vec<u8>, frames: &[u8]) -> Option<Vec<u8>> {
        let number_at = header.len();
        header.push(0);
        let mut sealed = frames.to_vec();
        let nonce = Nonce::assume_unique_for_key(self.iv);
        let aad = Aad::from(&*header);
        self.packet.seal_in_place_append_tag(nonce, aad, &mut sealed).ok()?;
        header.extend(sealed);
        let sample_at = number_at + SAMPLE_AT;
        let sample = header.get(sample_at..sample_at + SAMPLE)?;
        let [first_mask, number_mask, ..] = self.header.new_mask(sample).ok()?;
        *header.first_mut()? ^= first_mask & 0x0f;
        *header.get_mut(number_at)? ^= number_mask;
        Some(header)
    }
}

/// Key, IV and header protection key of one side (RFC 9001 §5.1 and §5.2, RFC 9369 §3.3).
fn derive(suite: Suite, dcid: &[u8], side: &[u8]) -> Option<([u8; 16], [u8; 12], [u8; 16])> {
    let initial = hkdf::Salt::new(hkdf::HKDF_SHA256, suite.salt).extract(dcid);
    let secret: [u8; 32] = expand_label(&initial, side)?;
    let secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &secret);
    let [key, iv, header]: [&[u8]; 3] = if suite.v2 {
        [b"quicv2 key", b"quicv2 iv", b"quicv2 hp"]
    } else {
        [b"quic key", b"quic iv", b"quic hp"]
    };
    Some((expand_label(&secret, key)?, expand_label(&secret, iv)?, expand_label(&secret, header)?))
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand_label<const N: usize>(secret: &hkdf::Prk, label: &[u8]) -> Option<[u8; N]> {
    let len = u16::try_from(N).ok()?.to_be_bytes();
    let label_len = [u8::try_from(b"tls13 ".len() + label.len()).ok()?];
    let info: [&[u8]; 5] = [&len, &label_len, b"tls13 ", label, &[0]];
    let mut key = [0; N];
    secret.expand(&info, Length(N)).ok()?.fill(&mut key).ok()?;
    Some(key)
}

/// RFC 9000 appendix A.3.
fn whole_number(truncated: u64, len: usize, largest: Option<u64>) -> u64 {
    let expected = largest.map_or(0, |largest| largest.saturating_add(1));
    let window = 1_u64 << (8 * len);
    let candidate = expected & !(window - 1) | truncated;
    if candidate.saturating_add(window / 2) <= expected && candidate < (1 << 62) - window {
        candidate + window
    } else if candidate > expected.saturating_add(window / 2) && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::Version;
    use super::*;

    /// RFC 9001 appendix A.1 and RFC 9369 appendix A.1.
    #[test]
    fn keys_are_those_of_the_rfcs() {
        let keys = |version: Version| {
            let suite = version.suite().unwrap();
            let (key, iv, header) =
                derive(suite, b"\x83\x94\xc8\xf0\x3e\x51\x57\x08", b"client in").unwrap();
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            [hex(&key), hex(&iv), hex(&header)]
        };
        let v1 = [
            "1f369613dd76d5467730efcbe3b1a22d",
            "fa044b2f42a3fd3b46fb255c",
            "9f50449e04a0e810283a1e9933adedd2",
        ];
        let v2 = [
            "8b1a0bc121284290a29e0971b5cd045d",
            "91f73e2351d8fa91660e909f",
            "45b95e15235d6f45a6b19cbcb0294ba9",
        ];
        assert_eq!(
            (keys(Version::V1), keys(Version::V2)),
            (v1.map(Into::into), v2.map(Into::into))
        );
    }

    #[test]
    fn packet_numbers_are_completed_as_the_rfc_does() {
        assert_eq!(whole_number(0x9b32, 2, Some(0xa82f_30ea)), 0xa82f_9b32);
        assert_eq!(whole_number(0, 1, None), 0);
        assert_eq!(whole_number(0xff, 1, Some(0x100)), 0xff);
        assert_eq!(whole_number(0x01, 1, Some(0xff)), 0x101);
    }
}
