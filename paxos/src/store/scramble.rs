//! Makes what is written look like noise, so that a sector of zeros is one that was not written.
//!
//! No secret: only payloads with long runs of zeros are to be told from sectors that never reached
//! the disk. It also keeps anyone from writing payloads that look like the store's own records.

/// The noise of one store: the same at the same place of every file, so that any part can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scramble(u64);

impl Scramble {
    pub(super) fn new(seed: u64) -> Scramble {
        Scramble(seed.wrapping_add(0x6A09_E667_F3BC_C908))
    }

    /// Turns plain bytes that belong at `offset` of a file into noise, and back.
    pub(super) fn apply(self, offset: u64, bytes: &mut [u8]) {
        let (mut index, skip) = (offset / 8, (offset % 8) as usize);
        let mut rest = bytes;
        if skip > 0 {
            let (head, tail) = rest.split_at_mut(rest.len().min(8 - skip));
            xor(head, &self.word(index).to_le_bytes()[skip..]);
            rest = tail;
            index += 1;
        }
        let (words, tail) = rest.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_le_bytes(*word) ^ self.word(index)).to_le_bytes();
            index += 1;
        }
        xor(tail, &self.word(index).to_le_bytes());
    }

    fn word(self, index: u64) -> u64 {
        let mixed = (self.0 ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    }
}

fn xor(bytes: &mut [u8], noise: &[u8]) {
    for (byte, noise) in bytes.iter_mut().zip(noise) {
        *byte ^= noise;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_restored_by_itself_and_no_sector_of_zeros_stays_one() {
        let scramble = Scramble::new(7);
        let plain: Vec<u8> = (0..4096_u32)
            .map(|at| if at < 2048 { 0 } else { at as u8 })
            .collect();
        let mut noise = plain.clone();
        scramble.apply(128, &mut noise);
        assert!(
            noise
                .chunks(64)
                .all(|part| part.iter().any(|byte| *byte != 0))
        );
        for from in 0..40 {
            for to in [from, from + 1, from + 7, from + 8, from + 500] {
                let mut part = noise[from..to].to_vec();
                scramble.apply(128 + from as u64, &mut part);
                assert_eq!(part, plain[from..to], "{from}..{to}");
            }
        }
    }
}
