package reencrypt

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Method is how objects are moved.
type Method string

// The methods.
const (
	// MethodAuto is the first of the others that may be used: see methods.
	MethodAuto Method = "auto"
	// MethodUpdate is UpdateObjectEncryption: no data moves, and any size, storage
	// class and version can be moved. Nothing moves where the probe fails.
	MethodUpdate Method = "update"
	// MethodCopy is CopyObject in place, in parts above 5 GB. It gives the object a
	// new LastModified and version id, and refuses what it cannot copy without loss.
	MethodCopy Method = "copy"
)

// methods are all methods, in the order in which MethodAuto prefers them.
var methods = []method{updateMethod{}, copyMethod{}}

// method is a way to move objects: a file each. See docs/contributing.md.
type method interface {
	// traits are what is true of it whatever the bucket.
	traits() traits
	// usable returns why it must not be used on this server for moves to a key, "" where it may.
	usable(ctx context.Context, e *Engine, to string) (unsafe string, err error)
	// readBucket reads what it needs to know of a bucket and other methods do not.
	readBucket(ctx context.Context, e *Engine, bucket string, f *facts) error
	// decide says what to do with an object version that is under an old key and that
	// nothing forbids every method to move.
	decide(o object, r rules) decision
	// examine reads of an object that decide moves what HEAD does not show; then it is
	// decided again.
	examine(ctx context.Context, m *mover, en entry, h *s3.HeadObjectOutput, o *object) error
	// move does an action of decide's. Its errors about the object are, or wrap, an
	// operationError or errDiffers.
	move(ctx context.Context, m *mover, en entry, h *s3.HeadObjectOutput, o object, a action) error
	// judge finds what of a bucket its moves change, or fail at.
	judge(f settings) []Finding
	// cost is how many writes it takes to move a group, and for how much.
	cost(g Group, class classPrice, part int64) (writes int64, usd float64)
}

// traits are what is true of a method whatever the bucket. A test fails where one of
// the answers is missing.
type traits struct {
	name Method
	// does completes "copy …" in the help of flags.
	does string
	// operation is the one that writes, as S3 names it.
	operation string
	// probed: usable tries it on a scratch object, which needs a state bucket.
	probed yesNo
	// checksums: it compares checksums, which HEAD is asked to show.
	checksums yesNo
	// tags: it has to read the tags of objects.
	tags yesNo
	// conditions: bucket policies are known to see the key and the preconditions of its writes.
	conditions yesNo
	// notes say what it does not keep of an object, for the report.
	notes []string
}

// yesNo is an answer; the zero value is neither.
type yesNo int

const (
	_ yesNo = iota
	yes
	no
)

// Methods returns what a Method may be.
func Methods() []Method {
	all := []Method{MethodAuto}
	for _, m := range methods {
		all = append(all, m.traits().name)
	}
	return all
}

// MethodHelp says in a line what the methods do.
func MethodHelp() string {
	var help strings.Builder
	for _, m := range methods {
		fmt.Fprintf(&help, "%s %s, ", m.traits().name, m.traits().does)
	}
	return help.String() + "auto takes the first of them that may be used"
}

// Probed reports whether a method that m stands for is tried on a scratch object
// first, for which Options.StateBucket is needed.
func (m Method) Probed() bool {
	return slices.ContainsFunc(m.candidates(), func(c method) bool { return c.traits().probed == yes })
}

// candidates are the methods that m stands for, the preferred one first; none where
// there is no such method.
func (m Method) candidates() []method {
	if m == MethodAuto {
		return methods
	}
	i := slices.IndexFunc(methods, func(c method) bool { return c.traits().name == m })
	if i < 0 {
		return nil
	}
	return methods[i : i+1]
}

// notes are those of the methods that m stands for.
func (m Method) notes() (all []string) {
	for _, c := range m.candidates() {
		all = append(all, c.traits().notes...)
	}
	return all
}

// methodOf returns the method by which the objects of s are moved, or a stopError.
func (e *Engine) methodOf(ctx context.Context, s spec) (method, error) {
	var unsafe string
	for _, m := range s.Method.candidates() {
		var err error
		if unsafe, err = m.usable(ctx, e, s.To); err != nil || unsafe == "" {
			return m, err
		}
	}
	return nil, &stopError{fmt.Sprintf("method %s must not be used here: %s", s.Method, unsafe)}
}

// checkOneOf returns an error where a value is not one of those allowed.
func checkOneOf[T ~string](what string, value T, allowed ...T) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	list := fmt.Sprint(allowed[0])
	for i, a := range allowed[1:] {
		if i == len(allowed)-2 {
			list += " or " + string(a)
		} else {
			list += ", " + string(a)
		}
	}
	return fmt.Errorf("%s %q is not %s", what, value, list)
}
