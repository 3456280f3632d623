//! JSON that keeps its fields in the order in which they were written, which serde_json's own does not: a page
//! has an order. Pure.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};

#[derive(Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// No other numbers stand in the document.
    Integer(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

static NULL: Json = Json::Null;

impl Json {
    /// A field's value; null where there is none.
    pub(super) fn get(&self, name: &str) -> &Json {
        self.fields().find(|(field, _)| *field == name).map_or(&NULL, |(_, value)| value)
    }

    /// Nothing where it is no object.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &Json)> {
        let fields = if let Json::Object(fields) = self { fields.as_slice() } else { &[] };
        fields.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Nothing where it is no list.
    pub(super) fn items(&self) -> &[Json] {
        if let Json::List(items) = self { items } else { &[] }
    }

    /// Empty where it is no text.
    pub(super) fn text(&self) -> &str {
        if let Json::Text(text) = self { text } else { "" }
    }

    pub(super) fn is_null(&self) -> bool {
        *self == Json::Null
    }

    /// What a `$ref` in it leads to (`#/components/…`), or itself.
    pub(super) fn resolved<'a>(&'a self, document: &'a Json) -> &'a Json {
        match self.get("$ref").text().strip_prefix("#/") {
            Some(path) => path.split('/').fold(document, Json::get),
            None => self,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON without fractions")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Integer(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Json, E> {
                i64::try_from(value).map(Json::Integer).map_err(E::custom)
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    fields.push(entry);
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Integer(value) => serializer.serialize_i64(*value),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(items) => items.serialize(serializer),
            Json::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_out_as_it_went_in() {
        let text = r#"{"z":[1,-2,null,true,"é\n"],"a":{"z":{},"a":[]}}"#;
        let json: Json = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
        assert_eq!(json.get("z").items()[1], Json::Integer(-2));
        assert!(json.get("a").get("nothing").get("nowhere").is_null());
    }

    #[test]
    fn references_are_followed() {
        let json: Json =
            serde_json::from_str(r##"{"a":{"b":"here"},"c":{"$ref":"#/a/b"},"d":{"$ref":"#/e"}}"##).unwrap();
        assert_eq!(json.get("c").resolved(&json).text(), "here");
        assert!(json.get("d").resolved(&json).is_null());
        assert_eq!(json.get("a").resolved(&json), json.get("a"));
    }
}
