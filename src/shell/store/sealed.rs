//! The format of a state file: bytes whose damage is noticed.
//!
//! Magic `WOVE`, version (1), three zero bytes, payload length (u32,
//! little-endian), CRC-32 (IEEE 802.3) over file name, the twelve bytes before
//! and the payload; then the payload. The name is covered so that one file's
//! content under another's name is noticed too.

use std::cmp::Ordering;

const MAGIC: [u8; 4] = *b"WOVE";
const VERSION: u8 = 1;
const HEADER: usize = 16;
/// No document comes near this; a longer file is not ours.
const LONGEST: usize = 16 << 20;

/// Bytes of the longest file that can be ours.
pub(super) const LONGEST_FILE: usize = HEADER + LONGEST;

/// The file `name` with that payload; none if it is too long.
pub(super) fn seal(name: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= LONGEST)?;
    let mut file = Vec::with_capacity(HEADER + payload.len());
    file.extend(MAGIC);
    file.extend([VERSION, 0, 0, 0]);
    file.extend(len.to_le_bytes());
    file.extend(crc32(&[name.as_bytes(), &file, payload]).to_le_bytes());
    file.extend(payload);
    Some(file)
}

/// The payload of a file `name`, or what is wrong with it.
pub(super) fn open_sealed<'a>(name: &str, file: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let (Some(head), Some(sum), Some(payload)) =
        (file.get(..12), file.get(12..HEADER), file.get(HEADER..))
    else {
        return Err("truncated");
    };
    if head[..4] != MAGIC {
        return Err("not a file of wove");
    }
    if head[4] != VERSION {
        return Err("made by another version of wove");
    }
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    match (len as usize).cmp(&payload.len()) {
        Ordering::Greater => return Err("truncated"),
        Ordering::Less => return Err("too long"),
        Ordering::Equal => {}
    }
    if crc32(&[name.as_bytes(), head, payload]).to_le_bytes() != sum {
        return Err("checksum");
    }
    Ok(payload)
}

/// CRC-32 of IEEE 802.3 over the parts as if they were one.
fn crc32(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cut_anywhere_or_extended_is_damaged() {
        let whole = seal("network", b"secret one\nsecret two\n").unwrap();
        for len in 0..whole.len() {
            assert!(
                open_sealed("network", &whole[..len]).is_err(),
                "cut at {len}"
            );
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(open_sealed("network", &longer), Err("too long"));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let whole = seal("network", b"secret one\n").unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open_sealed("network", &flipped).is_err(), "bit {bit}");
        }
        assert_eq!(
            open_sealed("targets", &whole),
            Err("checksum"),
            "another file's content"
        );
        assert!(open_sealed("network", &whole).is_ok());
    }

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
    }
}
