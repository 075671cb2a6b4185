//! Where the runtime's log records go (entry point SetLogger). Every record carries its source and the architecture.

use std::fmt;
use std::sync::{Arc, RwLock};

use log::{Level, Log, Record};

use crate::sync;

/// Source field of every record, and its target.
pub const SOURCE: &str = "hutch-runtime";

static LOGGER: RwLock<Option<Arc<dyn Log>>> = RwLock::new(None);

/// Sends the runtime's records to `logger` instead of the process's own; `None` undoes that.
///
/// Each record has the key-values `source` (`hutch-runtime`) and `arch` (`x86_64`).
pub fn set_logger(logger: Option<Arc<dyn Log>>) {
    *sync::write(&LOGGER) = logger;
}

/// Hands one record on.
pub(crate) fn emit(level: Level, args: fmt::Arguments<'_>) {
    let own = sync::read(&LOGGER).clone();
    let fields = [("source", SOURCE), ("arch", std::env::consts::ARCH)];
    let record = Record::builder()
        .level(level)
        .target(SOURCE)
        .module_path_static(Some(module_path!()))
        .args(args)
        .key_values(&fields)
        .build();
    match own {
        Some(logger) if logger.enabled(record.metadata()) => logger.log(&record),
        Some(_) => {}
        None if level <= log::max_level() => log::logger().log(&record),
        None => {}
    }
}

macro_rules! warn_ {
    ($($arg:tt)*) => { $crate::logger::emit(log::Level::Warn, format_args!($($arg)*)) };
}
pub(crate) use warn_ as warn;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use log::kv::{Key, Value, VisitSource};

    use super::*;

    #[derive(Default)]
    struct Collect(Mutex<Vec<(String, BTreeMap<String, String>)>>);

    struct Fields(BTreeMap<String, String>);

    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            self.0.insert(key.to_string(), value.to_string());
            Ok(())
        }
    }

    impl Log for Collect {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &Record<'_>) {
            let mut fields = Fields(BTreeMap::new());
            record.key_values().visit(&mut fields).unwrap();
            self.0.lock().unwrap().push((record.args().to_string(), fields.0));
        }
        fn flush(&self) {}
    }

    /// SetLogger of the pod contract.
    #[test]
    fn a_set_logger_gets_records_with_source_and_architecture() {
        let logger = Arc::new(Collect::default());
        set_logger(Some(logger.clone()));
        warn!("one {}", "marked record");
        set_logger(None);
        warn!("after");
        let records = logger.0.lock().unwrap();
        // Tests beside this one may log meanwhile.
        let (_, fields) = records.iter().find(|(text, _)| text == "one marked record").expect("the record");
        assert_eq!(fields["source"], SOURCE);
        assert_eq!(fields["arch"], std::env::consts::ARCH);
        assert!(!records.iter().any(|(text, _)| text == "after"));
    }
}
