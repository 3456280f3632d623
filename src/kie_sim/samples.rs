//! The files that there are: a picture, a drawing, a sound and a text, all made by code.
//!
//! Pure. It does not know how they are reached.

use std::{f64::consts::TAU, io::Write};

use flate2::{Compression, Crc, write::ZlibEncoder};

/// A file that can be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Its source URL: what to ask kielink for.
    pub source_url: &'static str,
    /// What it is, in a few words, for a list of commands to try.
    pub about: &'static str,
    pub(super) content_type: &'static str,
    pub(super) make: fn() -> Vec<u8>,
}

/// One on each kind of result host: pictures, drafts, music, anything else.
pub(super) const SAMPLES: [Sample; 4] = [
    Sample {
        source_url: "https://tempfile.aiquickdraw.com/s/sunrise.png",
        about: "a picture, 160 by 100 pixels",
        content_type: "image/png",
        make: sunrise,
    },
    Sample {
        source_url: "https://static.aiquickdraw.com/s/orbit.svg",
        about: "a drawing that moves",
        content_type: "image/svg+xml",
        make: || ORBIT.as_bytes().to_vec(),
    },
    Sample {
        source_url: "https://musicfile.kie.ai/s/chord.wav",
        about: "a sound, one second long",
        content_type: "audio/wav",
        make: chord,
    },
    Sample {
        source_url: "https://file.kie.ai/s/notes.txt",
        about: "a text",
        content_type: "text/plain; charset=utf-8",
        make: || NOTES.as_bytes().to_vec(),
    },
];

const ORBIT: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 100" width="480" height="300">
  <rect width="160" height="100" fill="#10182c"/>
  <circle cx="80" cy="50" r="12" fill="#ffc857"/>
  <circle cx="80" cy="50" r="36" fill="none" stroke="#43516f" stroke-width="0.5"/>
  <circle cx="116" cy="50" r="4" fill="#7fb7ff">
    <animateTransform attributeName="transform" type="rotate" from="0 80 50" to="360 80 50" dur="6s" repeatCount="indefinite"/>
  </circle>
</svg>
"##;

const NOTES: &str = "This file came out of kielink's sandbox: no key was used and no network was touched.
The link that brought you here is signed and ends; ask kielink again and it still works.
";

const WIDTH: u32 = 160;
const HEIGHT: u32 = 100;

/// A sky from night to amber with the sun at the horizon, as PNG.
fn sunrise() -> Vec<u8> {
    let mut scanlines = Vec::new();
    for y in 0..HEIGHT {
        scanlines.push(0); // filter type "none"
        for x in 0..WIDTH {
            scanlines.extend(sky(x, y));
        }
    }
    png(WIDTH, HEIGHT, &scanlines)
}

fn sky(x: u32, y: u32) -> [u8; 3] {
    const HORIZON: u32 = 70;
    const RADIUS: u32 = 18;
    if y >= HORIZON {
        return [24, 34, 64 + (HEIGHT - y) as u8];
    }
    if x.abs_diff(WIDTH / 2).pow(2) + y.abs_diff(HORIZON).pow(2) < RADIUS.pow(2) {
        return [255, 214, 102];
    }
    let glow = (y * 255 / HORIZON) as u8;
    [40 + glow / 3 * 2, 40 + glow / 3, 110 - glow / 4]
}

/// RGB scanlines, each behind its filter byte, as a PNG file.
fn png(width: u32, height: u32, scanlines: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]); // 8 bits, RGB, deflate, the standard filters, not interlaced
    // Not compressed, so that there is something to download in parts.
    let mut data = ZlibEncoder::new(Vec::new(), Compression::none());
    data.write_all(scanlines).expect("a Vec takes every byte");
    let data = data.finish().expect("a Vec takes every byte");

    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut file, b"IHDR", &header);
    chunk(&mut file, b"IDAT", &data);
    chunk(&mut file, b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a sample is far smaller than 4 GiB");
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    file.extend(length.to_be_bytes());
    file.extend(kind);
    file.extend(data);
    file.extend(crc.sum().to_be_bytes());
}

/// A fading C major chord, one second, 16-bit mono at 8 kHz, as WAV.
fn chord() -> Vec<u8> {
    const RATE: u32 = 8_000;
    const BYTES_A_SAMPLE: u16 = 2;
    let length = RATE * u32::from(BYTES_A_SAMPLE);

    let mut file = b"RIFF".to_vec();
    file.extend((36 + length).to_le_bytes()); // what follows: 36 bytes of header and the sound
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes()); // size of this header
    file.extend(1_u16.to_le_bytes()); // PCM
    file.extend(1_u16.to_le_bytes()); // mono
    file.extend(RATE.to_le_bytes());
    file.extend(length.to_le_bytes()); // bytes a second
    file.extend(BYTES_A_SAMPLE.to_le_bytes());
    file.extend((BYTES_A_SAMPLE * 8).to_le_bytes());
    file.extend(b"data");
    file.extend(length.to_le_bytes());
    for index in 0..RATE {
        let at = f64::from(index) / f64::from(RATE);
        let notes: f64 = [261.63, 329.63, 392.0].iter().map(|hertz| (TAU * hertz * at).sin()).sum();
        let loudness = 0.25 * (1.0 - at); // three notes at a quarter each cannot clip
        file.extend(((notes * loudness * f64::from(i16::MAX)) as i16).to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_picture_is_a_png_that_a_decoder_reads_to_its_last_pixel() {
        let file = sunrise();
        let mut rest = file.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
        let mut chunks = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (checked, after) = after.split_at(4 + u32::from_be_bytes(*length) as usize);
            let (crc, after) = after.split_first_chunk::<4>().unwrap();
            let mut expected = flate2::Crc::new();
            expected.update(checked);
            assert_eq!(u32::from_be_bytes(*crc), expected.sum());
            let (kind, data) = checked.split_at(4);
            chunks.push((String::from_utf8(kind.to_vec()).unwrap(), data.to_vec()));
            rest = after;
        }
        let kinds: Vec<&str> = chunks.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["IHDR", "IDAT", "IEND"]);
        let mut pixels = Vec::new();
        flate2::read::ZlibDecoder::new(&*chunks[1].1).read_to_end(&mut pixels).unwrap();
        assert_eq!(pixels.len(), (HEIGHT * (1 + 3 * WIDTH)) as usize);
    }

    #[test]
    fn the_sound_is_as_long_as_its_header_says() {
        let file = chord();
        let after_riff = u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
        let after_data = u32::from_le_bytes(file[40..44].try_into().unwrap()) as usize;
        assert_eq!(file.len(), 8 + after_riff);
        assert_eq!(file.len(), 44 + after_data);
        assert!(file[44..].iter().any(|byte| *byte != 0));
    }
}
