package clientside

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// KMS is what Rewrap calls of AWS KMS; *kms.Client has it.
type KMS interface {
	ReEncrypt(context.Context, *kms.ReEncryptInput, ...func(*kms.Options)) (*kms.ReEncryptOutput, error)
}

// Move says which KMS keys data keys leave, and for which.
type Move struct {
	// From and To are ARNs of KMS keys. Data keys under others stay as they are.
	From []string
	To   string
	// Aliases are ARNs of aliases of To. A label that is one of them stays; any other is
	// replaced by To, so that readers that follow it find the key.
	Aliases []string
	// Context is the encryption context of data keys whose format stores none
	// (Key.ContextUnknown).
	Context map[string]string
}

// Rewrapped is what has to be written where an object's data keys were moved.
type Rewrapped struct {
	// Moved is how many of the keys were moved. With 0, nothing has to be written, and
	// Metadata and Body are nil.
	Moved int
	// Keys are those of before, with what is new of them.
	Keys []Key
	// Metadata is the object's user metadata, all of it, where Place is InMetadata.
	Metadata map[string]string
	// Body is the object's, or its instruction file's, where Place is another.
	Body []byte
}

// ErrRefused is of what cannot be re-wrapped; the text has Found.Refusal.
var ErrRefused = errors.New("cannot be re-wrapped")

// Rewrap moves the data keys that are under a key of m.From, each by one call of KMS
// ReEncrypt with its own encryption context as source and destination, and returns what to
// write: the same bytes but for the wrapped keys and their labels. KMS is asked with one
// key of m.From after the other, the one that the label names first; with none where the
// label names a KMS key of another account or Region.
//
// The error is ErrRefused, KMS's own, or says what of f or m does not allow it. Then
// nothing is to be written.
func (f Found) Rewrap(ctx context.Context, client KMS, m Move) (Rewrapped, error) {
	if err := m.valid(); err != nil {
		return Rewrapped{}, err
	}
	switch {
	case f.Refusal != "":
		return Rewrapped{}, fmt.Errorf("%w: %s", ErrRefused, f.Refusal)
	case f.Partial && f.Place == InInstructionFile:
		return Rewrapped{}, errors.New("re-wrap: the wrapped key is in the instruction file: give that to ByInstructionFile")
	case f.Partial:
		return Rewrapped{}, errors.New("re-wrap: only the beginning of the object was given: give all of it to ByContent")
	}
	out := Rewrapped{Keys: slices.Clone(f.Keys)}
	var edits []edit
	for i := range out.Keys {
		k := &out.Keys[i]
		// The documents of a YAML file have the same keys.
		if same := slices.IndexFunc(f.Keys[:i], func(o Key) bool { return sameKey(o, *k) }); same >= 0 {
			*k = out.Keys[same]
		} else if err := k.move(ctx, client, m); err != nil {
			return Rewrapped{}, err
		}
		if bytes.Equal(k.Wrapped, f.Keys[i].Wrapped) {
			continue
		}
		out.Moved++
		if f.Place == InMetadata {
			out.Metadata = maps.Clone(f.metadata)
			out.Metadata[f.name] = encode(k.Wrapped)
			continue
		}
		more, err := f.slots[i](*k)
		if err != nil {
			return Rewrapped{}, fmt.Errorf("re-wrap: %w", err)
		}
		edits = append(edits, more...)
	}
	if len(edits) > 0 {
		out.Body = apply(f.body, edits)
	}
	return out, f.verify(out)
}

// verify checks that what was written reads as what it was, but for the new keys. All
// bytes that no edit replaced are the old ones.
func (f Found) verify(out Rewrapped) error {
	var again Found
	var err error
	switch {
	case out.Metadata != nil:
		again, err = ByMetadata(out.Metadata)
	case out.Body != nil:
		again, err = f.again(out.Body)
	default:
		return nil
	}
	if err == nil && (again.Format != f.Format || again.Refusal != "" || !slices.EqualFunc(again.Keys, out.Keys, sameKey)) {
		err = errors.New("it does not read as it should")
	}
	if err != nil {
		return fmt.Errorf("re-wrap: the result is not to be written: %w", err)
	}
	return nil
}

func sameKey(a, b Key) bool {
	return bytes.Equal(a.Wrapped, b.Wrapped) && a.Label == b.Label && maps.Equal(a.Context, b.Context)
}

// apply returns body with the edits, which do not overlap.
func apply(body []byte, edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	out := make([]byte, 0, len(body)+maxBlob)
	at := 0
	for _, e := range edits {
		out = append(append(out, body[at:e.start]...), e.text...)
		at = e.end
	}
	return append(out, body[at:]...)
}

// valid names all that is wrong with m.
func (m Move) valid() error {
	var wrong []string
	for _, from := range m.From {
		if arn.KeyID(from) == "" {
			wrong = append(wrong, fmt.Sprintf("From has %q: give ARNs of KMS keys", from))
		}
	}
	if len(m.From) == 0 {
		wrong = append(wrong, "From is empty: give the ARNs of the KMS keys to move from")
	}
	if arn.KeyID(m.To) == "" {
		wrong = append(wrong, fmt.Sprintf("To is %q: give the ARN of a KMS key", m.To))
	}
	if slices.Contains(m.From, m.To) {
		wrong = append(wrong, fmt.Sprintf("%s is in both From and To", m.To))
	}
	if wrong != nil {
		return fmt.Errorf("re-wrap: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// sources returns the keys of from that k may be under, the one that its label names
// first. Nothing authenticates a label, so that KMS is asked about a key of the same
// account and Region whatever it says. One of another is believed: what KMS says about a
// ciphertext of another Region is not documented.
func (k Key) sources(from []string) []string {
	label := arn.Parse(k.Label)
	if arn.KeyID(k.Label) == "" || k.LabelInContext {
		return from
	}
	near := slices.DeleteFunc(slices.Clone(from), func(f string) bool {
		a := arn.Parse(f)
		return a.Account != label.Account || a.Region != label.Region
	})
	slices.SortStableFunc(near, func(a, b string) int {
		switch k.Label {
		case a:
			return -1
		case b:
			return 1
		}
		return 0
	})
	return near
}

// label returns what names To in place of k's label.
func (m Move) label(k Key) string {
	if k.Label == "" || k.LabelInContext || slices.Contains(m.Aliases, k.Label) {
		return k.Label
	}
	return m.To
}

// move re-wraps a key that is under one of m.From, and leaves any other as it is.
func (k *Key) move(ctx context.Context, client KMS, m Move) error {
	wrapped, err := k.reEncrypt(ctx, client, m.From, func(string) string { return m.To }, m.Context)
	switch {
	case err != nil:
		// A key of From may be gone or disabled, and this one have left it long ago.
		if done, asked := k.reEncrypt(ctx, client, []string{m.To}, func(to string) string { return to }, m.Context); asked == nil && done != nil {
			return nil
		}
		return err
	case wrapped != nil:
		k.Wrapped, k.Label = wrapped, m.label(*k)
	}
	return nil
}

// reEncrypt returns k as KMS wraps it under the key that to names for the one of from that
// it is under; nil where it is under none of them.
func (k Key) reEncrypt(ctx context.Context, client KMS, from []string, to func(string) string, unknown map[string]string) ([]byte, error) {
	about := k.Context
	if k.ContextUnknown {
		about = unknown
	}
	var failed error
	for _, from := range k.sources(from) {
		to := to(from)
		out, err := client.ReEncrypt(ctx, &kms.ReEncryptInput{
			CiphertextBlob: k.Wrapped, SourceKeyId: aws.String(from), DestinationKeyId: aws.String(to),
			SourceEncryptionContext: about, DestinationEncryptionContext: about,
		})
		var other *types.IncorrectKeyException
		switch {
		case errors.As(err, &other):
			continue
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("re-encrypt a data key under %s: %w", from, err))
			continue
		case aws.ToString(out.KeyId) != to: // that it was under from, KMS checks
			return nil, fmt.Errorf("re-encrypt a data key under %s: KMS moved it to %q, asked was %s", from, aws.ToString(out.KeyId), to)
		case len(out.CiphertextBlob) == 0 || len(out.CiphertextBlob) > maxBlob:
			return nil, fmt.Errorf("re-encrypt a data key under %s: KMS returned %d bytes", from, len(out.CiphertextBlob))
		}
		return out.CiphertextBlob, nil
	}
	return nil, failed
}

// Under reports whether a data key of f, which may be refused to Rewrap, is under one of
// the KMS keys, given as ARNs. KMS is asked to re-encrypt it under the same key, which
// takes kms:ReEncryptFrom and kms:ReEncryptTo on it, and what KMS returns is dropped.
// about is the encryption context of data keys whose format stores none. The error is
// KMS's.
func (f Found) Under(ctx context.Context, client KMS, keys []string, about map[string]string) (bool, error) {
	var failed error
	for _, k := range f.Keys {
		wrapped, err := k.reEncrypt(ctx, client, keys, func(from string) string { return from }, about)
		if wrapped != nil {
			return true, nil
		}
		failed = errors.Join(failed, err)
	}
	return false, failed
}
