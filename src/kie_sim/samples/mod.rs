//! The files that there are: a picture, a drawing, a sound and a text.
//!
//! Pure. It does not know how the files are reached.

/// A file that can be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Its source URL: what to ask kielink for.
    pub source_url: &'static str,
    /// What it is, in a few words, for a list of commands to try.
    pub about: &'static str,
    pub(super) content_type: &'static str,
    pub(super) body: &'static [u8],
}

/// One file on each kind of result host: pictures, drafts, music, anything else.
pub(super) const SAMPLES: [Sample; 4] = [
    Sample {
        source_url: "https://tempfile.aiquickdraw.com/s/sunrise.png",
        about: "a picture, 160 by 100 pixels",
        content_type: "image/png",
        // Not compressed, so that there is something to download in parts.
        body: include_bytes!("sunrise.png"),
    },
    Sample {
        source_url: "https://static.aiquickdraw.com/s/orbit.svg",
        about: "a drawing that moves",
        content_type: "image/svg+xml",
        body: include_bytes!("orbit.svg"),
    },
    Sample {
        source_url: "https://musicfile.kie.ai/s/chord.wav",
        about: "a sound, one second long",
        content_type: "audio/wav",
        body: include_bytes!("chord.wav"),
    },
    Sample {
        source_url: "https://file.kie.ai/s/notes.txt",
        about: "a text",
        content_type: "text/plain; charset=utf-8",
        body: include_bytes!("notes.txt"),
    },
];

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_picture_is_a_png_that_a_decoder_reads_to_its_last_pixel() {
        let mut rest = SAMPLES[0].body.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
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
        assert_eq!(pixels.len(), 100 * (1 + 3 * 160));
    }

    #[test]
    fn the_sound_is_as_long_as_its_header_says() {
        let file = SAMPLES[2].body;
        let after_riff = u32::from_le_bytes(file[4..8].try_into().unwrap()) as usize;
        let after_data = u32::from_le_bytes(file[40..44].try_into().unwrap()) as usize;
        assert_eq!(file.len(), 8 + after_riff);
        assert_eq!(file.len(), 44 + after_data);
        assert!(file[44..].iter().any(|byte| *byte != 0));
    }
}
