//! JSON Schema, as far as docs/openapi.json uses it: a word that is not known here fails the test.
#![allow(dead_code, reason = "each test program uses a part of it")]

use serde_json::Value;

/// The description of the API.
pub(crate) fn openapi() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The schema of what a path answers.
pub(crate) fn of_answer<'d>(document: &'d Value, path: &str, method: &str) -> &'d Value {
    let content = &document["paths"][path][method]["responses"]["200"]["content"];
    let schema = &content["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} is not described");
    schema
}

/// Whether a value is as a schema of `document` says.
///
/// # Errors
/// Where it is not, and how.
pub(crate) fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let wrong = |why: &str| Err(format!("{value}: {why}: {schema}"));
    for (word, wanted) in schema.as_object().expect("a schema") {
        match word.as_str() {
            "type" => {
                let is_kind =
                    |one: &Value| *one == *kind || (*one == *"number" && kind == "integer");
                let kinds = wanted.as_array();
                if !kinds.map_or_else(|| is_kind(wanted), |kinds| kinds.iter().any(is_kind)) {
                    return wrong("another type");
                }
            }
            "$ref" => {
                let at = wanted.as_str().unwrap().strip_prefix('#').expect("of this file");
                fits(document, document.pointer(at).expect("a schema"), value)?;
            }
            "enum" if !wanted.as_array().unwrap().contains(value) => return wrong("not one of"),
            "const" if wanted != value => return wrong("another value"),
            "minimum" if value.as_f64().is_some_and(|n| n < wanted.as_f64().unwrap()) => {
                return wrong("too small");
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    fits(document, wanted, item)?;
                }
            }
            "properties" => {
                for (name, part) in value.as_object().into_iter().flatten() {
                    match wanted.get(name) {
                        Some(property) => fits(document, property, part)?,
                        None => return Err(format!("{name} is not described in {schema}")),
                    }
                }
            }
            "additionalProperties" => {
                if let (Value::Object(_), Value::Object(of), None) =
                    (wanted, value, schema.get("properties"))
                {
                    for part in of.values() {
                        fits(document, wanted, part)?;
                    }
                }
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    let there = value.get(name.as_str().unwrap());
                    if value.is_object() && there.is_none() {
                        return wrong(&format!("{name} is missing"));
                    }
                }
            }
            "oneOf" => {
                let fitting: Vec<_> = wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| fits(document, one, value))
                    .collect();
                if fitting.iter().filter(|fits| fits.is_ok()).count() != 1 {
                    return Err(format!("{value} fits none, or several: {fitting:?}"));
                }
            }
            "enum" | "const" | "minimum" | "description" => {}
            other => panic!("the test knows nothing of {other}"),
        }
    }
    Ok(())
}
