package sweep

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// mark stands for values: it is the same for the same ones, and another one for others.
// They have to be of the kind that JSON shows whole.
func mark(values ...any) string {
	text, err := json.Marshal(values)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// configMark stands for everything that decides how a worker judges: its configuration,
// but for how much it does at a time, and its build.
func configMark(c reaction.Config) string {
	c.Concurrency, c.SweepShare, c.SweepShard = 0, 0, 0
	h := sha256.New()
	hashValue(h, reflect.ValueOf(c))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// hashValue writes a value with all that it is made of, fields that are not exported as
// well. A place in time is known by its name: what else it holds changes with time.
func hashValue(h hash.Hash, v reflect.Value) {
	write := func(format string, args ...any) { _, _ = fmt.Fprintf(h, format, args...) } // never fails
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if write("*"); !v.IsNil() {
			hashValue(h, v.Elem())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Location]() {
			write("%q", v.FieldByName("name").String())
			return
		}
		for i := range v.NumField() {
			write("%s:", v.Type().Field(i).Name)
			hashValue(h, v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		write("[%d]", v.Len())
		for i := range v.Len() {
			hashValue(h, v.Index(i))
		}
	case reflect.Map:
		write("{%d}", v.Len())
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			write("%q:", key.String())
			hashValue(h, v.MapIndex(key))
		}
	default:
		write("%#v;", v)
	}
}
