//! Spatial values: MySQL's SRID and WKB to the hexadecimal EWKB that PostGIS reads.

use crate::values::hex;

/// Marks a WKB type that is followed by an SRID.
const SRID_FLAG: u32 = 0x2000_0000;

/// Appends a value of MySQL as hexadecimal EWKB; an error says what it is instead.
pub(crate) fn push_ewkb(value: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    // SRID (little endian), byte order, type, and the rest.
    let Some((head, rest)) = value.split_at_checked(9) else {
        return Err(format!("{} bytes are no spatial value", value.len()));
    };
    let mut srid = [0_u8; 4];
    srid.copy_from_slice(&head[..4]);
    let mut kind = [0_u8; 4];
    kind.copy_from_slice(&head[5..]);
    let big_endian = match head[4] {
        0 => true,
        1 => false,
        other => return Err(format!("a spatial value of the unknown byte order {other}")),
    };
    if u32::from_le_bytes(srid) == 0 {
        hex::push_digits(&value[4..], out);
        return Ok(());
    }
    let flagged = if big_endian {
        srid.reverse();
        (u32::from_be_bytes(kind) | SRID_FLAG).to_be_bytes()
    } else {
        (u32::from_le_bytes(kind) | SRID_FLAG).to_le_bytes()
    };
    for part in [&head[4..5], &flagged, &srid, rest] {
        hex::push_digits(part, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points() {
        let mut point = vec![0, 0, 0, 0, 1, 1, 0, 0, 0];
        point.extend_from_slice(&1.0_f64.to_le_bytes());
        point.extend_from_slice(&2.0_f64.to_le_bytes());
        let mut out = Vec::new();
        push_ewkb(&point, &mut out).unwrap();
        assert_eq!(out, b"0101000000000000000000f03f0000000000000040");
        point[..4].copy_from_slice(&4326_u32.to_le_bytes());
        out.clear();
        push_ewkb(&point, &mut out).unwrap();
        assert_eq!(out, b"0101000020e6100000000000000000f03f0000000000000040");
        assert!(push_ewkb(b"", &mut out).is_err());
        assert!(push_ewkb(&[0, 0, 0, 0, 7, 1, 0, 0, 0], &mut out).is_err());
    }
}
