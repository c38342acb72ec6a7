package ledger

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/keylist"
	"github.com/cmkeeper/cmkeeper/state"
)

// TestStoredBytes holds how documents are stored: each kind with every member that it
// has, with members that have nothing in them, and with none. A build that reads such
// a file and writes it must write the same.
// UPDATE_GOLDEN=1 go test ./handlers/ledger -run StoredBytes writes the files.
func TestStoredBytes(t *testing.T) {
	server := localaws.New(localaws.Options{})
	defer server.Close()
	client := s3.NewFromConfig(inprocess.Config(server, "us-east-1", "AKIATEST"), func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("ledger")}); err != nil {
		t.Fatal(err)
	}
	store := state.New(client, "ledger", "", "")
	// stored is a document as Put stores it. The token is another one with each write.
	stored := func(name string, doc state.Document) []byte {
		t.Helper()
		if err := store.Delete(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Put(t.Context(), name, doc, ""); err != nil {
			t.Fatal(err)
		}
		out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("ledger"), Key: &name})
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(out.Body)
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`"write":"[A-Z2-7]+"`).ReplaceAll(body, []byte(`"write":"TOKEN"`))
	}
	for kind, empty := range map[string]func() state.Document{
		"key":      func() state.Document { return new(Key) },
		"alias":    func() state.Document { return new(Alias) },
		"bucket":   func() state.Document { return new(Bucket) },
		"baseline": func() state.Document { return new(Baseline) },
		"sweeps":   func() state.Document { return new(Sweeps) },
		"account":  func() state.Document { return new(Account) },
		"shard":    func() state.Document { return new(Shard) }, "sweep-facts": func() state.Document { return new(SweepFacts) },
		"sweep-record": func() state.Document { return new(SweepRecord) },
		"guard":        func() state.Document { return new(Guard) },
		"ticks":        func() state.Document { return new(Ticks) },
		"blind":        func() state.Document { return new(Blind) },
		"role":         func() state.Document { return new(Role) }, "canary": func() state.Document { return new(Canary) },
		"access": func() state.Document { return new(Access) }, "access-review": func() state.Document { return new(AccessReview) },
		"last-uses": func() state.Document { return new(keylist.LastUses) },
	} {
		full, hollow := empty(), empty()
		fill(t, reflect.ValueOf(full).Elem(), kind, new(int))
		hollowOut(reflect.ValueOf(hollow).Elem())
		for name, doc := range map[string]state.Document{kind + "-full": full, kind + "-hollow": hollow, kind + "-minimal": empty()} {
			t.Run(name, func(t *testing.T) {
				path := filepath.Join("testdata", name+".json")
				got := stored(name, doc)
				if os.Getenv("UPDATE_GOLDEN") != "" {
					if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				want = bytes.TrimSuffix(want, []byte("\n"))
				if !bytes.Equal(got, want) {
					t.Errorf("it is stored as\n%s\nwant\n%s", got, want)
				}
				// What another build stored is read, and written as it was.
				if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("ledger"), Key: &name, Body: bytes.NewReader(want)}); err != nil {
					t.Fatal(err)
				}
				read := empty()
				if _, err := store.Get(t.Context(), name, read); err != nil {
					t.Fatal(err)
				}
				if diff := gocmp.Diff(doc, read, gocmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
					t.Errorf("read (-want +got):\n%s", diff)
				}
				if again := stored(name, read); !bytes.Equal(again, want) {
					t.Errorf("it is written again as\n%s\nwant\n%s", again, want)
				}
			})
		}
	}
}

// fill sets every member that a value stores, each to another value. Texts are where they stand.
func fill(t *testing.T, v reflect.Value, path string, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), path, n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(t, v.Index(i), fmt.Sprintf("%s[%d]", path, i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		one := reflect.New(v.Type().Elem()).Elem()
		fill(t, one, path+"{}", n)
		v.SetMapIndex(reflect.ValueOf("name"), one)
	case reflect.String:
		v.SetString(path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*n))
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok {
			v.Set(reflect.ValueOf(time.Date(2000, 1, 2, 3, 4, *n, 6007008, time.UTC)))
			return
		}
		for field, member := range v.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.Anonymous {
				fill(t, member, path, n)
				continue
			}
			if name == "" {
				t.Fatalf("%s.%s is stored under its Go name, or not at all", path, field.Name)
			}
			fill(t, member, path+"."+name, n)
		}
	default:
		t.Fatalf("%s is a %s, which this test cannot fill", path, v.Type())
	}
}

// hollowOut makes every list one of a zero value and every pointer one to a zero value.
func hollowOut(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		hollowOut(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		hollowOut(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		one := reflect.New(v.Type().Elem()).Elem()
		hollowOut(one)
		v.SetMapIndex(reflect.ValueOf("name"), one)
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok {
			return
		}
		for _, member := range v.Fields() {
			hollowOut(member)
		}
	default:
	}
}

// answerLost is an S3 whose first write takes effect, is replaced by another writer,
// and is then sent again by the SDK, because its answer was lost.
type answerLost struct {
	state.S3
	replace func()
}

func (l *answerLost) PutObject(ctx context.Context, in *s3.PutObjectInput, options ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	out, err := l.S3.PutObject(ctx, in, options...)
	if replace := l.replace; replace != nil && err == nil {
		l.replace = nil
		replace()
		if _, err := in.Body.(io.Seeker).Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return l.S3.PutObject(ctx, in, options...)
	}
	return out, err
}

// TestAcceptPolicyOnce: an acceptance whose answer was lost is one acceptance.
func TestAcceptPolicyOnce(t *testing.T) {
	server := localaws.New(localaws.Options{})
	defer server.Close()
	client := s3.NewFromConfig(inprocess.Config(server, "us-east-1", "AKIATEST"), func(o *s3.Options) { o.UsePathStyle = true })
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("ledger")}); err != nil {
		t.Fatal(err)
	}
	const key = "arn:aws:kms:us-east-1:000000000000:key/k"
	store := state.New(client, "ledger", "", "")
	lost := &answerLost{S3: client, replace: func() {
		err := state.Update(t.Context(), store, BaselineName(key), func(b *Baseline, _ bool) error {
			b.Take("{}", Restoration{By: "e", Taken: Hash("{}")})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}}
	accepted, err := AcceptPolicy(t.Context(), state.New(lost, "ledger", "", ""), key, policyOf("a"), "alice")
	if err != nil || accepted.Number != 1 {
		t.Errorf("accepted is %+v, %v", accepted, err)
	}
	b, err := ReadBaseline(t.Context(), store, key)
	if err != nil || b.Acceptances != 1 || len(b.Versions) != 2 || !b.Accepts(policyOf("a")) {
		t.Errorf("recorded is %+v, %v", b, err)
	}
}
