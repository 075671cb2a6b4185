//! Turns of phrase that make a native reader read twice.

use super::text::{blocks, Block, Kind, Span, Token, CODE};

/// After "is no" these are good English.
const AFTER_NO: [&str; 3] = ["longer", "more", "other"];

/// The idioms in a stretch of text, with their lines.
pub(super) fn problems(span: &Span) -> Vec<(usize, String)> {
    if span.kind == Kind::Code {
        return Vec::new();
    }
    blocks(span).iter().flat_map(|block| in_block(block, span.kind)).collect()
}

fn in_block(block: &Block, kind: Kind) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let tokens = &block.tokens;
    for at in 0..tokens.len() {
        let mut complain = |words: usize, advice: &str| {
            let phrase: Vec<String> = tokens[at..].iter().take(words).map(|t| bare(t).replace(CODE, "…")).collect();
            found.push((tokens[at].line, format!("\"{}\": {advice}", phrase.join(" "))));
        };
        let word = |ahead: usize| tokens.get(at + ahead).map(lower).unwrap_or_default();
        let follow = |words: &[&str]| {
            words
                .iter()
                .enumerate()
                .all(|(n, expected)| word(n) == *expected && (n + 1 == words.len() || joined(&tokens[at + n])))
        };
        let there = at > 0 && lower(&tokens[at - 1]) == "there";
        for (verb, advice) in [("is", "say \"is not a\""), ("are", "say \"are not\"")] {
            let goes_on = joined(&tokens[(at + 1).min(tokens.len() - 1)]) && at + 2 < tokens.len();
            if follow(&[verb, "no"]) && goes_on && !there && !AFTER_NO.contains(&word(2).as_str()) {
                complain(3, advice);
            }
            if follow(&[verb, "to", "be"]) {
                complain(3, "say \"must be\", or who does it");
            }
        }
        if follow(&["so", "many"]) && !leads_to_that(&tokens[at..]) {
            complain(2, "give the number a name: \"N times\", \"after SECS seconds\"");
        }
        if follow(&["for", "so", "long"]) && !leads_to_that(&tokens[at..]) {
            complain(3, "give the time a name: \"for SECS seconds\"");
        }
        match word(0).as_str() {
            "whoever" | "somebody" => complain(1, "name the actor"),
            // In code and its strings it is a user.
            "nobody" if kind != Kind::Str => complain(1, "name the actor: \"no process\", \"no caller\""),
            "shall" => complain(1, "say \"must\", or what happens"),
            _ => {}
        }
        let begins = at == 0 || ends_sentence(&tokens[at - 1]);
        if begins
            && !block.title
            && ["What", "Who"].contains(&bare(&tokens[at]))
            && joined(&tokens[at])
            && at + 1 < tokens.len()
        {
            let end = tokens[at..].iter().find(|token| ends_sentence(token));
            if !end.is_some_and(|token| token.text.contains('?')) {
                complain(2, "begin with the subject");
            }
        }
    }
    found
}

/// Whether the sentence goes on to a "that", as in "so many files that it ran out of them".
fn leads_to_that(tokens: &[Token]) -> bool {
    let sentence = tokens.iter().take_while(|token| !ends_sentence(token));
    sentence.skip(2).any(|token| lower(token) == "that")
}

/// A word without the punctuation around it.
fn bare(token: &Token) -> &str {
    token.text.trim_matches(|c: char| !c.is_alphanumeric() && c != CODE && c != '{' && c != '}')
}

fn lower(token: &Token) -> String {
    bare(token).to_lowercase()
}

/// Whether no punctuation parts a word from the next.
fn joined(token: &Token) -> bool {
    !token.text.ends_with([',', ';', ':', '.', '!', '?', ')', '"'])
}

fn ends_sentence(token: &Token) -> bool {
    token.text.trim_end_matches([')', '"', '\'', '*', '_', ']']).ends_with(['.', '!', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: Kind, text: &str) -> Vec<String> {
        problems(&Span { kind, line: 1, text: text.to_owned() }).into_iter().map(|(_, what)| what).collect()
    }

    #[test]
    fn each_idiom_is_found() {
        for bad in [
            "It is no file.",
            "They are no files, but directories.",
            "`name` is no `path`.",
            "Run the tests so many times.",
            "Wait for so long.",
            "Whoever calls this.",
            "for somebody's sake, somebody said",
            "Nobody reads it.",
            "It shall run.",
            "This is to be kept, and",
            "What the guest runs.",
            "It works. What it says is printed.",
            "Who dies writes down why.",
            "- What is left",
            "(What follows is not read.)",
        ] {
            assert_eq!(found(Kind::Comment, bad).len(), 1, "{bad}: {:?}", found(Kind::Comment, bad));
        }
    }

    #[test]
    fn good_english_is_left_alone() {
        for good in [
            "There is no file; is there no other? There are no more.",
            "It is no longer there, is no more and is no other.",
            "The answer is no, whatever is asked. The answer is no.",
            "So many files that it takes a minute.",
            "What is this? Who runs it?",
            "# What it is",
            "| What | Who |\n| What is it | Who did it |",
            "Says what it does, and who did it.",
            "What",
            "The user `nobody` is not root.",
            "```\nIt shall run.\n```",
        ] {
            assert_eq!(found(Kind::Comment, good), [""; 0], "{good}");
        }
        assert_eq!(found(Kind::Str, "nobody"), [""; 0]);
        assert_eq!(found(Kind::Code, "shall"), [""; 0]);
    }

    #[test]
    fn findings_say_where_and_what_instead() {
        let span = Span { kind: Kind::Comment, line: 7, text: "One.\nTwo is no\nnumber.".to_owned() };
        assert_eq!(problems(&span), [(8, "\"is no number\": say \"is not a\"".to_owned())]);
    }
}
