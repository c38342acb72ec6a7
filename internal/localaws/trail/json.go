package trail

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// JSON writes a request or an answer as CloudTrail does: names, which are those of
// the fields' json or xml tags where they have one, begin with a small letter,
// times are text, absent members and binary ones are left out. A trail tag is the
// name as it stands, and "-" leaves the field out too. Nothing is nil.
func JSON(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	var b bytes.Buffer
	write(&b, reflect.ValueOf(v))
	return b.Bytes()
}

func write(b *bytes.Buffer, v reflect.Value) {
	switch value := v.Interface().(type) {
	case wire.Timestamp:
		v = reflect.ValueOf(time.Time(value).UTC().Format("Jan 2, 2006, 3:04:05 PM"))
	case json.RawMessage:
		b.Write(value)
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		write(b, v.Elem())
	case reflect.Struct:
		b.WriteByte('{')
		writeFields(b, v)
		b.WriteByte('}')
	case reflect.Slice:
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			write(b, v.Index(i))
		}
		b.WriteByte(']')
	default:
		doc, _ := json.Marshal(v.Interface()) // strings, numbers, booleans and maps of strings always encode
		b.Write(doc)
	}
}

func writeFields(b *bytes.Buffer, v reflect.Value) {
	for field, value := range v.Fields() {
		if field.Anonymous {
			writeFields(b, value)
			continue
		}
		name := nameOf(field)
		if name == "-" || absent(value) {
			continue
		}
		if !bytes.HasSuffix(b.Bytes(), []byte{'{'}) {
			b.WriteByte(',')
		}
		b.WriteString(`"` + name + `":`)
		write(b, value)
	}
}

// nameOf is a field's name in a record.
func nameOf(field reflect.StructField) string {
	if name := field.Tag.Get("trail"); name != "" {
		return name
	}
	name := field.Name
	for _, tag := range []string{"xml", "json"} {
		if tagged, _, _ := strings.Cut(field.Tag.Get(tag), ","); tagged != "" {
			name = tagged
		}
	}
	return strings.ToLower(name[:1]) + name[1:]
}

// absent reports whether the caller did not send the member, or CloudTrail does
// not show it: bytes are never logged.
func absent(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice:
		return v.IsNil() || v.Type().Elem().Kind() == reflect.Uint8 && v.Type() != reflect.TypeFor[json.RawMessage]()
	case reflect.String, reflect.Pointer, reflect.Map, reflect.Interface:
		return v.IsZero()
	}
	return false
}
