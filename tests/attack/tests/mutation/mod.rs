//! Random changes of inputs: those that find faults without knowing what an input reaches.

/// Longest input.
const MAX: usize = 4096;
/// Numbers at the borders of types.
const BORDERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// Makes inputs of other inputs.
pub struct Mutator<'a> {
    state: u64,
    inputs: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    /// The same seed gives the same inputs.
    pub fn new(seed: u64, inputs: &'a [Vec<u8>]) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, inputs }
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = self.any_input().to_vec();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(MAX);
        input
    }

    fn any_input(&mut self) -> &'a [u8] {
        let index = self.below(self.inputs.len());
        &self.inputs[index]
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let rest = input.len() - at;
        match self.below(8) {
            0 => input.insert(at, self.byte()),
            1 => drop(input.drain(at..at + self.below(rest.min(16) + 1))),
            2 => {
                let other = self.any_input();
                let from = self.below(other.len() + 1);
                let len = self.below((other.len() - from).min(64) + 1);
                drop(input.splice(at..at, other[from..from + len].iter().copied()));
            }
            3 => {
                let copied = input[at..at + self.below(rest.min(64) + 1)].to_vec();
                drop(input.splice(at..at, copied));
            }
            4 => {
                let border = BORDERS[self.below(BORDERS.len())].to_le_bytes();
                let len = [1, 2, 4, 8][self.below(4)].min(rest);
                input[at..at + len].copy_from_slice(&border[..len]);
            }
            // Numbers in text.
            5 => {
                let border = BORDERS[self.below(BORDERS.len())].to_string();
                let digits = input[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                drop(input.splice(at..at + digits, border.bytes()));
            }
            _ if rest > 0 => input[at] = self.byte(),
            _ => {}
        }
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn below(&mut self, limit: usize) -> usize {
        // Xorshift, Marsaglia 2003.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % limit
    }
}
