use super::naming::refuse_word;

/// One line of a flow, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EdgeText<'a> {
    /// `None` for `*`: every program of the type that has the output.
    pub program: Option<&'a str>,
    pub output: &'a str,
    pub readers: Vec<&'a str>,
    pub line: usize,
}

/// Reads `PROGRAM.OUTPUT -> READER, READER`; the error says what is wrong with it.
pub(super) fn parse(text: &str, line: usize) -> Result<EdgeText<'_>, String> {
    let (from, to) = text.split_once("->").ok_or("it has no \"->\"")?;
    if to.contains("->") {
        return Err("it has more than one \"->\"; write one edge for each step".into());
    }
    let from = from.trim();
    let (program, output) = from
        .split_once('.')
        .ok_or_else(|| format!("{from:?} names no output"))?;
    let program = match program {
        "*" => None,
        program => Some(name("program", program)?),
    };
    let readers = to
        .split(',')
        .map(|reader| match reader.trim() {
            "" => Err("a reader's name is missing".to_owned()),
            reader if reader.contains('.') => Err(format!(
                "the reader {reader:?} must be a program without an output"
            )),
            reader => name("reader", reader),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(EdgeText {
        program,
        output: name("output", output)?,
        readers,
        line,
    })
}

fn name<'a>(what: &str, text: &'a str) -> Result<&'a str, String> {
    match refuse_word(text) {
        None => Ok(text),
        Some(why) => Err(format!("the {what} {text:?} is no name: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_names_a_program_its_output_and_the_readers() {
        let edge = parse("  fetcher.batches->ch-writer ,  es-writer ", 1).unwrap();
        assert_eq!(edge.program, Some("fetcher"));
        assert_eq!(edge.output, "batches");
        assert_eq!(edge.readers, ["ch-writer", "es-writer"]);
    }

    #[test]
    fn a_star_is_every_program() {
        let edge = parse("*.receipts -> ledger", 1).unwrap();
        assert_eq!(edge.program, None);
    }

    #[test]
    fn what_is_not_an_edge_is_refused_with_the_reason() {
        let refused = |text: &str, part: &str| {
            let why = parse(text, 1).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        };
        refused("queuer.tasks fetcher", "no \"->\"");
        refused("queuer.tasks -> fetcher -> ledger", "more than one");
        refused("queuer -> fetcher", "names no output");
        refused("queuer.tasks -> fetcher,", "missing");
        refused("queuer.tasks ->", "missing");
        refused("queuer.tasks -> fetcher.in", "without an output");
        refused("queuer. -> fetcher", "output \"\"");
        refused(".tasks -> fetcher", "program \"\"");
        refused("Queuer.tasks -> fetcher", "small letters");
        refused("queuer .tasks -> fetcher", "small letters");
    }
}
