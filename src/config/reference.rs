//! A preset with every key that a config knows, as a file to read and to begin with.

use serde::Deserialize;
use toml::{Table, Value};

use super::keys::{Line, REFERENCE};
use super::load::{parse_table, preset_table};
use super::schema::{TrainConfig, invalid_config, layers_toml};
use crate::error::Result;
use crate::nn::LayerSpec;

/// The [`REFERENCE`] with the values of a preset in it: a complete config. What the preset does not set stays commented out, with
/// what it is then.
///
/// # Errors
/// When there is no preset of that name.
pub fn with_all_keys(preset: &str) -> Result<String> {
    let set = preset_table(preset)?;
    let resolved = parse_table(&TrainConfig::preset(preset)?.to_toml()?, preset)?;
    let (mut text, mut section) = (String::new(), "");
    for line in REFERENCE.lines() {
        let written = match Line::of(line) {
            Line::Section(name) => {
                section = name;
                if find(&set, name, None).is_some() { format!("[{name}]") } else { line.to_string() }
            }
            Line::Key(key, default) => match (find(&set, section, Some(key)), find(&resolved, section, Some(key))) {
                (Some(value), _) => format!("{key} = {}", written(value, preset)?),
                // As of another kind.
                (None, Some(value)) if default.parse().ok().as_ref() != Some(value) => {
                    format!("#{key} = {}", written(value, preset)?)
                }
                (None, _) => line.to_string(),
            },
            Line::Other => line.to_string(),
        };
        text += &written;
        text.push('\n');
    }
    Ok(text)
}

/// A section, or a key in it.
fn find<'a>(table: &'a Table, section: &str, key: Option<&str>) -> Option<&'a Value> {
    let mut path = section.split('.').filter(|name| !name.is_empty()).chain(key);
    let first = table.get(path.next()?)?;
    path.try_fold(first, |value, name| value.get(name))
}

/// A value as TOML: layers one a line, with what they say in its usual order.
fn written(value: &Value, place: &str) -> Result<String> {
    let Some(layers) = value.as_array().filter(|all| all.iter().any(Value::is_table)) else { return Ok(value.to_string()) };
    let layers = layers.iter().map(|layer| LayerSpec::deserialize(layer.clone()));
    layers_toml(&layers.collect::<Result<Vec<_>, _>>().map_err(|e| invalid_config(place, e.to_string()))?)
}
