//! Bodies: padded, compressed, cut into chunks. Pure.

use std::io::Write;

use flate2::{Compress, Compression, Crc, FlushCompress, write::GzEncoder};

use super::answer::Envelope;

const MIB: usize = 1 << 20;

/// Far above any sensible limit on an answer of some hundred bytes, yet little enough that a client without a limit
/// fails its test and not the machine.
const BOMB_BYTES: usize = 256 * MIB;

pub(super) fn success(data: &str) -> String {
    Envelope::success(data.into()).to_json()
}

/// A success envelope that is padded to `bytes`, if it is not longer by itself.
pub(super) fn padded(link: &str, bytes: usize) -> String {
    let plain = success(link);
    // `,"padding":""` is 13 bytes.
    let Some(missing) = bytes.checked_sub(plain.len() + 13) else {
        return plain;
    };
    format!("{},\"padding\":\"{}\"}}", plain.trim_end_matches('}'), "x".repeat(missing))
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes every byte");
    encoder.finish().expect("a Vec takes every byte")
}

/// `end` behind whitespace up to `BOMB_BYTES`, gzipped. Only one block of the whitespace is ever compressed (and its
/// checksum computed): the same bytes are repeated, so that a debug build does not sweat for seconds.
pub(super) fn bomb(end: &[u8]) -> Vec<u8> {
    let block = vec![b' '; MIB];
    let deflated_block = deflate(&block, FlushCompress::Sync);
    let mut block_crc = Crc::new();
    block_crc.update(&block);

    let mut crc = Crc::new();
    // RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..BOMB_BYTES / MIB {
        out.extend_from_slice(&deflated_block);
        crc.combine(&block_crc);
    }
    out.extend(deflate(end, FlushCompress::Finish));
    crc.update(end);
    out.extend(crc.sum().to_le_bytes());
    out.extend(crc.amount().to_le_bytes());
    out
}

/// Raw deflate that refers to nothing before it, so that it can follow anything that ends in a sync flush.
fn deflate(bytes: &[u8], flush: FlushCompress) -> Vec<u8> {
    // Room even for what does not compress.
    let mut out = Vec::with_capacity(bytes.len() + 1024);
    Compress::new(Compression::best(), false)
        .compress_vec(bytes, &mut out, flush)
        .expect("raw deflate has no state to be wrong");
    out
}

/// Two chunks where there is enough for two, so that no client gets away with reading one.
pub(super) fn chunked(body: &[u8]) -> Vec<u8> {
    let (first, second) = body.split_at(body.len() / 2);
    let mut out = Vec::with_capacity(body.len() + 64);
    for chunk in [first, second] {
        // An empty chunk would be the last one.
        if !chunk.is_empty() {
            out.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}
