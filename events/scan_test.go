package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzScan holds the scanner to encoding/json: the same texts are accepted, and
// of those everything is read alike. What Parse does after that is a function of
// the two structures that are compared here.
func FuzzScan(f *testing.F) {
	for _, body := range fixtureFiles(f) {
		f.Add(body)
	}
	for _, text := range documents {
		f.Add([]byte(text))
	}
	f.Fuzz(checkScan)
}

func TestScan(t *testing.T) {
	for _, text := range slices.Concat(documents, deepDocuments) {
		t.Run(fmt.Sprintf("%.60q", text), func(t *testing.T) { checkScan(t, []byte(text)) })
	}
}

func checkScan(t *testing.T, body []byte) {
	s := scan(string(body))
	got := tree(s)
	err := s.end()
	if !json.Valid(body) {
		if err == nil {
			t.Fatalf("malformed text read as %v", got)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var want any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("document (-encoding/json +scanner):\n%s", cmp.Diff(want, got))
	}

	s = scan(string(body))
	m := s.message()
	if err := s.end(); err != nil {
		t.Fatalf("read a message: %v", err)
	}
	if diff := cmp.Diff(referenceMessage(body, want), m); diff != "" {
		t.Fatalf("message (-encoding/json +scanner):\n%s", diff)
	}
	s = scan(string(body))
	r := s.record()
	if err := s.end(); err != nil {
		t.Fatalf("read a record: %v", err)
	}
	if diff := cmp.Diff(referenceRecord(body, want), r); diff != "" {
		t.Fatalf("record (-encoding/json +scanner):\n%s", diff)
	}
}

// tree reads whatever comes, as encoding/json would into an any.
func tree(s *scanner) any {
	switch s.peek() {
	case '{':
		members := map[string]any{}
		for name := range s.members {
			members[name] = tree(s)
		}
		return members
	case '[':
		elements := []any{}
		for range s.elements {
			elements = append(elements, tree(s))
		}
		return elements
	case '"':
		return s.string()
	case 't':
		return s.bool()
	case 'f':
		s.skip()
		return false
	case 'n':
		s.skip()
		return nil
	}
	at := s.pos
	s.skip()
	return json.Number(s.text[at:s.pos])
}

// documents are JSON and what is nearly JSON.
var documents = []string{
	"", " ", "\x00", "\ufeff{}", "{}", " \t\r\n{ } \n", "{}{}", "{} x", "[]", "[ ]", "[,]", "[1,]", "[,1]", "[1 2]", "[1", "]", "}",
	`{`, `{,}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a" : 1 , "b":2}`, `{"a":1 "b":2}`, `{a:1}`, `{1:1}`, `{"a":1]`, `[1}`, `[{} "x"]`,
	"true", "false", "null", "tru", "truex", "nul", "falsey", "True", "nil", "NaN", "Infinity",
	"0", "-0", "-", "01", "-01", "1.", ".1", "1.5", "1e", "1e+", "1e+5", "1E-5", "+1", "1.e1", "0x1", "1_0", "9223372036854775808",
	`"`, `"a`, `"\`, `"\"`, `"\u`, `"\u00`, `"\u00"`, `"\u00g0"`, `"\x"`, `'a'`, "\"\n\"", "\"\x1f\"", "\"\x7f\"", "\"\u2028\"",
	`"\"\\\/\b\f\n\r\t"`, `"\u0041\u00e9\u20ac"`, `"aé€😀"`, `"\ud83d\ude00"`, `"\uD83D\uDE00"`,
	`"\ud83d"`, `"\ude00"`, `"\ud83d\u0041"`, `"\ud83d\ud83d\ude00"`, `"\ud83dx"`, `"\ud83d\n"`, `"\ude00\ud83d"`, `"\ufffd"`, `"\u0000"`,
	"\"\xff\"", "\"\xc3\"", "\"\xe2\x82\"", "\"a\xff\xfe\\n\xffb\"", "\"\xed\xa0\x80\"", "\"\xe2\\u0041\x82\"", "\"\xc3\\\"", "{\"\xff\":1,\"\\u0061\":2}",
	`{"a":1,"a":2}`, `{"id":"1","id":"2"}`, `{"id":"1","id":null}`, `{"id":"1","id":5}`, `{"ID":"1","Id":"2","iD":"3"}`, `{"\u0069d":"1"}`,
	`{"detail":{"eventName":"a"},"detail":{"eventID":"b"}}`, `{"detail":{"eventName":"a"},"detail":null}`,
	`{"resources":["a","b"],"resources":["c"]}`, `{"resources":["a",5,null,{},{"ARN":"b"},{"arn":"c"},{"ARN":5},["d"]]}`, `{"resources":{"ARN":"a"}}`,
	`{"Records":[{"a":1}, 2 , "x",null]}`, `{"Records":{}}`, `{"Records":[]}`, `{"Records":[1],"Records":"x"}`,
	`{"requestParameters":{"tags":[{"tagKey":"a","tagValue":"b"},{"tagKey":"a"},{},7],"tagKeys":["a",1,null],"operations":[]}}`,
	`{"requestParameters":{"pendingWindowInDays":7,"rotationPeriodInDays":1e2,"multiRegion":"true"}}`,
	`{"requestParameters":{"pendingWindowInDays":-7,"rotationPeriodInDays":99999999999999999999,"multiRegion":true,"keyId":["x"]}}`,
	`{"userIdentity":{"sessionContext":{"sessionIssuer":{"type":"Role","arn":"r"},"attributes":{"mfaAuthenticated":"true"}},"onBehalfOf":{"userId":"u"}}}`,
	`{"requestParameters":{"encryptionContext":{"a":"b","c":1,"a":"d"},"sourceEncryptionContext":{},"destinationEncryptionContext":["a"]}}`,
	`{"additionalEventData":{"grantId":"g","customKeyStoreName":"s"},"requestParameters":{"constraints":{"encryptionContextSubset":{"a":"b"}}}}`,
	`{"requestParameters":{"constraints":{"encryptionContextEquals":{},"sourceArn":"arn"}},"responseElements":{"constraints":{"encryptionContextSubset":["a"],"sourceArn":""}}}`,
	`{"requestParameters": {"a" : [1, {"b":"\u0041"}]} ,"responseElements":[{}],"responseElements":null}`,
	`{"userIdentity":{"sessionContext":[],"onBehalfOf":"u","type":{}}}`,
	`{"responseElements":{"keyMetadata":{"arn":"a","multiRegion":true},"replicaKeyMetadata":{"arn":"b"}},"serviceEventDetails":{"rotationType":"x"}}`,
	`{"key-id":"k","key-origin":"o","key-material-id":"m","rotation-type":"r","previous-key-material-id":"p","current-key-material-id":"c"}`,
}

// deepDocuments are too long to be good seeds.
var deepDocuments = []string{
	nested(maxDepth), nested(maxDepth + 1), strings.Repeat("[", maxDepth), strings.Repeat("[", 1<<20), strings.Repeat(`{"a":`, maxDepth+1),
}

func nested(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

func TestScanErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{``, "unexpected end of JSON text"},
		{`{"a":[1,`, "unexpected end of JSON text"},
		{`{"a":"b`, "unexpected end of JSON text"},
		{`"\u12`, "unexpected end of JSON text"},
		{`tru`, "unexpected end of JSON text"},
		{`{"a":trux}`, "invalid character 'x' at offset 8"},
		{` {"a" 1}`, "invalid character '1' at offset 6"},
		{"\"a\nb\"", `invalid character '\n' at offset 2`},
		{`"\u12x4"`, "invalid character 'x' at offset 5"},
		{`[1] [2]`, "invalid character '[' at offset 4"},
		{`-x`, "invalid character 'x' at offset 1"},
		{nested(maxDepth + 1), "nested too deeply"},
	} {
		s := scan(test.text)
		if err := s.end(); err == nil || err.Error() != test.want {
			t.Errorf("%.40q: %v, want %s", test.text, err, test.want)
		}
	}
}
