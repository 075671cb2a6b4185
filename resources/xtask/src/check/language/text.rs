//! Takes source files apart into code, comments and strings, and comments into paragraphs and words.

/// The kind of a stretch of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Code,
    Comment,
    Str,
    Markdown,
}

/// Text of one kind. Each of its lines is the rest of a line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) kind: Kind,
    /// The first line's number.
    pub(super) line: usize,
    pub(super) text: String,
}

/// A word with its punctuation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// A paragraph, an item of a list, a heading or a row of a table.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) tokens: Vec<Token>,
    /// A heading or a row of a table: not made of sentences.
    pub(super) title: bool,
}

/// Ends a paragraph in a string, as `\n` does in the string's source.
const END: char = '\u{2029}';

/// Stands for code between backticks.
pub(super) const CODE: char = '\u{fffc}';

/// Takes a Rust source apart.
pub(super) fn of_rust(source: &str) -> Vec<Span> {
    let mut lexer = Lexer { chars: source.chars().collect(), at: 0, line: 1, spans: Vec::new(), code: String::new() };
    lexer.run();
    lexer.spans
}

/// A Markdown document, one span, without what it switches off.
pub(super) fn of_markdown(source: &str) -> Vec<Span> {
    let mut off = false;
    let mut text = String::new();
    for line in source.lines() {
        off = match line.trim() {
            "<!-- language: off -->" => true,
            "<!-- language: on -->" => false,
            _ => off,
        };
        if !off {
            text.push_str(line);
        }
        text.push('\n');
    }
    vec![Span { kind: Kind::Markdown, line: 1, text }]
}

/// The comments and strings of a TOML file.
pub(super) fn of_toml(source: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (line, text) in (1..).zip(source.lines()) {
        let (mut quoted, mut comment) = (String::new(), None);
        let mut open = None;
        for (at, c) in text.char_indices() {
            match open {
                None if c == '#' => {
                    comment = Some(&text[at + 1..]);
                    break;
                }
                None if c == '"' || c == '\'' => open = Some(c),
                Some(quote) if c == quote => {
                    open = None;
                    quoted.push(END);
                }
                Some(_) => quoted.push(c),
                None => {}
            }
        }
        if !quoted.is_empty() {
            spans.push(Span { kind: Kind::Str, line, text: quoted });
        }
        if let Some(comment) = comment {
            let alone = text.trim_start().starts_with('#');
            match spans.last_mut() {
                Some(last)
                    if alone
                        && last.kind == Kind::Comment
                        && last.line + last.text.matches('\n').count() + 1 == line =>
                {
                    last.text.push('\n');
                    last.text.push_str(comment);
                }
                _ => spans.push(Span { kind: Kind::Comment, line, text: comment.to_owned() }),
            }
        }
    }
    spans
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    spans: Vec<Span>,
    /// Code of the current line.
    code: String,
}

impl Lexer {
    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            match (c, self.peek(1)) {
                ('/', Some('/')) => self.line_comment(),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.string(None),
                ('\'', _) => self.quote(),
                ('b' | 'c' | 'r', _) if !self.code.ends_with(is_word) && self.raw_string() => {}
                _ => {
                    self.take();
                    match c {
                        '\n' => {}
                        c => self.code.push(c),
                    }
                }
            }
        }
        self.end_code();
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek(0)?;
        if c == '\n' {
            self.end_code();
            self.line += 1;
        }
        self.at += 1;
        Some(c)
    }

    fn end_code(&mut self) {
        let text = std::mem::take(&mut self.code);
        if !text.trim().is_empty() {
            self.spans.push(Span { kind: Kind::Code, line: self.line, text });
        }
    }

    /// One that continues the comment of the line above is added to it.
    fn line_comment(&mut self) {
        let alone = self.code.trim().is_empty();
        if alone {
            self.code.clear();
        }
        let mut text = String::new();
        while let Some(c) = self.peek(0).filter(|c| *c != '\n') {
            text.push(c);
            self.at += 1;
        }
        let line = self.line;
        let marker =
            |text: &str| ["///", "//!", "//"].into_iter().find(|marker| text.starts_with(marker)).unwrap_or("");
        let this = marker(&text);
        let body = text[this.len()..].to_owned();
        // The marker stays in front of the first line until a line of another kind comes.
        match self.spans.last_mut() {
            Some(last) if alone && last.kind == Kind::Comment && last.continues(this, line) => {
                last.text.push('\n');
                last.text.push_str(&body);
            }
            _ => {
                self.end_code();
                let text = format!("{}{body}", marker_char(this));
                self.spans.push(Span { kind: Kind::Comment, line, text });
            }
        }
    }

    fn block_comment(&mut self) {
        self.end_code();
        let line = self.line;
        let (mut depth, mut text) = (0, String::new());
        while let Some(c) = self.take() {
            match (c, self.peek(0)) {
                ('/', Some('*')) => {
                    depth += 1;
                    self.at += 1;
                }
                ('*', Some('/')) => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => text.push(c),
            }
            if depth == 0 {
                break;
            }
        }
        self.spans.push(Span { kind: Kind::Comment, line, text });
    }

    /// A string at its opening quote; a raw one ends with so many `hashes`.
    fn string(&mut self, hashes: Option<usize>) {
        let line = self.line;
        let code = std::mem::take(&mut self.code);
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.take() {
            match (c, hashes) {
                ('"', None) => break,
                ('"', Some(hashes)) if (0..hashes).all(|n| self.peek(n) == Some('#')) => {
                    self.at += hashes;
                    break;
                }
                ('\\', None) => match self.take() {
                    Some('n') => text.push(END),
                    Some('\n') => text.push('\n'),
                    Some('"') => text.push('"'),
                    _ => text.push(' '),
                },
                (c, _) => text.push(c),
            }
        }
        self.spans.push(Span { kind: Kind::Str, line, text });
        self.code = if self.line == line { format!("{code} ") } else { " ".to_owned() };
        if self.line != line && !code.trim().is_empty() {
            self.spans.push(Span { kind: Kind::Code, line, text: code });
        }
    }

    /// A character, or the quote of a lifetime.
    fn quote(&mut self) {
        if self.peek(1) == Some('\\') {
            self.at += 2;
            self.take();
            while self.take().is_some_and(|c| c != '\'') {}
        } else if self.peek(2) == Some('\'') {
            self.at += 3;
        } else {
            self.at += 1;
            self.code.push('\'');
        }
    }

    /// A string with a prefix, as in `br#"…"#`; `false` if there is none here.
    fn raw_string(&mut self) -> bool {
        let prefix = (0..2).take_while(|n| self.peek(*n).is_some_and(|c| matches!(c, 'b' | 'c' | 'r'))).count();
        let raw = self.peek(prefix - 1) == Some('r');
        let hashes = (0..).take_while(|n| self.peek(prefix + n) == Some('#')).count();
        if self.peek(prefix + hashes) != Some('"') || (hashes > 0 && !raw) {
            return false;
        }
        self.at += prefix + hashes;
        self.string(raw.then_some(hashes));
        true
    }
}

impl Span {
    /// Whether a comment with this marker on this line belongs to the same comment.
    fn continues(&self, marker: &str, line: usize) -> bool {
        self.line + self.text.matches('\n').count() + 1 == line && self.text.starts_with(marker_char(marker))
    }
}

/// Marks at the start of a comment's text which kind of comment it is; white space to all readers.
fn marker_char(marker: &str) -> char {
    match marker {
        "///" => '\u{2000}',
        "//!" => '\u{2001}',
        _ => '\u{2002}',
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The paragraphs of a comment, a string or a document. Code between fences or backticks is left out.
pub(super) fn blocks(span: &Span) -> Vec<Block> {
    let marked_up = span.kind != Kind::Str;
    let (mut blocks, mut fenced, mut code) = (vec![Block::default()], false, false);
    for (line, text) in (span.line..).zip(span.text.split('\n')) {
        for (nth, part) in text.split(END).enumerate() {
            let mut part = part.trim();
            let fence = marked_up && (part.starts_with("```") || part.starts_with("~~~"));
            fenced ^= fence;
            let title = marked_up && part.starts_with(['#', '|']);
            let marker = if marked_up { list_marker(part) } else { None };
            if nth > 0 || part.is_empty() || fence || title || marker.is_some() {
                blocks.push(Block { title, ..Block::default() });
                code = false;
            }
            if fence || fenced {
                continue;
            }
            part = part[marker.unwrap_or(0)..].trim_start_matches(['>', ' ']);
            let block = blocks.last_mut().expect("there is one from the start");
            for word in part.split_whitespace() {
                let word = without_code(word, &mut code);
                if word != CODE.to_string() || !ends_with_code(block) {
                    block.tokens.push(Token { text: word, line });
                }
            }
            if title {
                blocks.push(Block::default());
            }
        }
    }
    blocks.retain(|block| !block.tokens.is_empty());
    blocks
}

fn ends_with_code(block: &Block) -> bool {
    block.tokens.last().is_some_and(|token| token.text == CODE.to_string())
}

/// Replaces what is between backticks; `inside` carries that over from word to word.
fn without_code(word: &str, inside: &mut bool) -> String {
    let mut text = String::new();
    let stands = |text: &mut String| {
        if !text.ends_with(CODE) {
            text.push(CODE);
        }
    };
    for c in word.chars() {
        if c == '`' {
            *inside = !*inside;
            stands(&mut text);
        } else if *inside {
            stands(&mut text);
        } else {
            text.push(c);
        }
    }
    text
}

/// Length of `- `, `* `, `12. ` or the like at the start of a line.
fn list_marker(line: &str) -> Option<usize> {
    if ["- ", "* ", "+ "].iter().any(|marker| line.starts_with(marker)) {
        return Some(2);
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0 && line[digits..].starts_with(". ")).then_some(digits + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(source: &str) -> Vec<(Kind, usize, String)> {
        of_rust(source).into_iter().map(|s| (s.kind, s.line, s.text.trim().to_owned())).collect()
    }

    #[test]
    fn rust_is_taken_apart() {
        let source = "\
//! A
//! b
/// C
fn f<'a>(x: &'a str) { // d
    g('\"', \"e // f\", br#\"h\"i\"#, b'\\'', 'j'); /* k
    l */ m();
}
";
        let found = spans(source);
        let text = |kind| found.iter().filter(|s| s.0 == kind).map(|s| (s.1, s.2.as_str())).collect::<Vec<_>>();
        assert_eq!(text(Kind::Comment), [(1, "A\n b"), (3, "C"), (4, "d"), (5, "k\n    l")]);
        assert_eq!(text(Kind::Str), [(5, "e // f"), (5, "h\"i")]);
        let code: String = text(Kind::Code).iter().map(|(_, code)| *code).collect();
        assert!(code.contains("fn f<'a>(x: &'a str)") && code.contains("m();") && !code.contains('e'), "{code}");
    }

    #[test]
    fn paragraphs_are_split_where_sentences_cannot_go_on() {
        let text = "# Title\nOne\ntwo `a b` three.\n\n- item\n  more\n1. next\n```\ncode\n```\n| a | b |";
        let span = Span { kind: Kind::Markdown, line: 1, text: text.to_owned() };
        let blocks: Vec<(String, bool)> = blocks(&span)
            .iter()
            .map(|b| (b.tokens.iter().map(|t| t.text.as_str()).collect::<Vec<_>>().join(" "), b.title))
            .collect();
        let expected = [
            ("# Title", true),
            ("One two \u{fffc} three.", false),
            ("item more", false),
            ("next", false),
            ("| a | b |", true),
        ];
        assert_eq!(blocks, expected.map(|(text, title)| (text.to_owned(), title)));
    }

    #[test]
    fn toml_has_comments_and_strings() {
        let found = of_toml("# a\n# b\nc = \"d # e\" # f\n");
        let found: Vec<(usize, &str)> = found.iter().map(|s| (s.line, s.text.trim())).collect();
        assert_eq!(found, [(1, "a\n b"), (3, "d # e"), (3, "f")]);
    }
}
