package events

import (
	"reflect"
	"testing"
	"time"
)

// TestEveryEventIsDecoded: an event has a Detail exactly where its line in the table
// names a decoder, however little its record says.
func TestEveryEventIsDecoded(t *testing.T) {
	unknown := eventName{SourceKMS, "SynchronizeMultiRegionKey"}
	if Known(unknown.source, unknown.name) {
		t.Errorf("%s is taken for known", unknown.name)
	}
	for event, decode := range decoders {
		if !Known(event.source, event.name) {
			t.Errorf("%s is taken for unknown", event.name)
		}
		e := Event{ID: "1", Kind: APICall, Name: event.name, Source: event.source, Time: time.Unix(0, 0), Account: "111122223333", Region: "us-east-1"}
		if event.source == SourceNative {
			e.Kind = Native
		}
		got, err := Parse(encode(t, e))
		if err != nil {
			t.Fatal(err)
		}
		if (got.Detail != nil) != (decode != nil) {
			t.Errorf("%s of %s: detail %#v", event.name, event.source, got.Detail)
		}
	}
}

// TestEveryDetailHasAFixture: of each type of Detail that is decoded there is a recorded
// event with values in it, so that no decoder passes the tests by reading nothing.
func TestEveryDetailHasAFixture(t *testing.T) {
	recorded := map[reflect.Type]bool{}
	for _, e := range fixtures {
		if e.Detail != nil && !reflect.ValueOf(e.Detail).IsZero() {
			recorded[reflect.TypeOf(e.Detail)] = true
		}
	}
	for event, decode := range decoders {
		if decode == nil {
			continue
		}
		if detail := reflect.TypeOf(decode(record{})); detail.NumField() > 0 && !recorded[detail] {
			t.Errorf("%s: no fixture has a %s with values", event.name, detail.Name())
		}
	}
}
