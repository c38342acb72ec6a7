package reencrypt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/clientside"
	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// Envelopes is where data keys of client-side encryption are looked for, to be moved with
// the objects that they are stored in. See package clientside for the formats.
type Envelopes string

// The choices.
const (
	// EnvelopesOff: nowhere, and nothing is claimed of them. It is the same as "".
	EnvelopesOff Envelopes = "off"
	// EnvelopesMetadata: in the metadata of objects, which are read anyway, and in
	// instruction files.
	EnvelopesMetadata Envelopes = "metadata"
	// EnvelopesContent: also in what each object begins with, for which it is read.
	EnvelopesContent Envelopes = "content"
)

// AllEnvelopes returns what an Envelopes may be.
func AllEnvelopes() []Envelopes {
	return []Envelopes{EnvelopesOff, EnvelopesMetadata, EnvelopesContent}
}

// orNone returns "" for EnvelopesOff, so that there is one way to say it.
func (e Envelopes) orNone() Envelopes {
	if e == EnvelopesOff {
		return ""
	}
	return e
}

// On reports whether data keys are looked for at all.
func (e Envelopes) On() bool { return e.orNone() != "" }

// Covers reports whether data keys are looked for everywhere that other says.
func (e Envelopes) Covers(other Envelopes) bool {
	depth := func(e Envelopes) int { return slices.Index(AllEnvelopes(), cmp.Or(e, EnvelopesOff)) }
	return depth(e) >= depth(other)
}

// The actions that move data keys, whatever the method of a job is.
const (
	rewrap  action = "re-wrap" // a copy of the object with other metadata
	rewrite action = "rewrite" // the object, or an instruction file, is put with another body
)

const (
	// maxBodies is how many objects are in memory at once, each of clientside.MaxBody at
	// most, and twice where its data keys move.
	maxBodies = 4
	// maxInstruction is how large an instruction file may be: ByInstructionFile reads no more.
	maxInstruction = 64 << 10
	// maxAlias is the most characters of an alias (AliasName of KMS's API reference).
	maxAlias = 256
	// maxLabels is how many aliases that labels name are looked up in a slice: writers of
	// objects choose them, and each takes a request and is remembered.
	maxLabels = 100
	// instructionMark is in the metadata of instruction files that the S3 Encryption Client
	// for Java writes (content-metadata.md of the client's specification).
	instructionMark = "x-amz-crypto-instr-file"
)

// sealed is what is known of the client-side encryption of an object version, and what is
// to be done about it. The zero value is none.
type sealed struct {
	clientside.Found
	// holds: a data key is under a key to move from, or nobody can say. proved: KMS said so.
	holds, proved bool
	decision
	detail string
	moved  clientside.Rewrapped
	// asked: KMS was, and the rate has been waited for.
	asked bool
	// free gives back the place among bodies in memory.
	free func()
}

func (s *sealed) refuse(reason Reason, format string, args ...any) {
	s.holds, s.decision = true, decision{refuse, reason}
	s.detail = fmt.Sprintf("client-side encryption (%s): %s", cmp.Or(s.name(), "not known"), fmt.Sprintf(format, args...))
}

// name is how it is counted.
func (s *sealed) name() string {
	if s.NotKMS {
		return string(s.Format) + ", not KMS"
	}
	return string(s.Format)
}

// add puts what is done with the data keys to what is done with the object.
func (v *verdict) add(s sealed, o object, d decision) {
	v.format = s.name()
	switch {
	case s.action.moves():
		v.action, v.reason, v.rewrapped = s.action, "", d.reason
		if d.action.moves() {
			v.rewrapped = ReasonOnTarget
		} else if o.encryption == "" { // as no new object is any more
			v.rewrapped = ReasonSSES3
		}
	case s.action == refuse:
		if v.action == skip {
			v.action = refuse
		}
		v.reason, v.detail = s.reason, s.detail
	}
}

// sealed finds data keys in an object version of which d moves S3's own encryption, or
// leaves it as it is, and says what is to be done with them. The caller has to call free.
func (m *mover) sealed(ctx context.Context, en entry, h *s3.HeadObjectOutput, o object, d decision) (sealed, error) {
	none := sealed{decision: decision{action: skip}, free: func() {}}
	s := none
	if m.Envelopes == "" || d.action == refuse {
		return s, nil
	}
	if err := m.find(ctx, en, h, &s); err != nil {
		s.free()
		return none, err
	}
	if s.Format == clientside.None || s.action == refuse || s.NotKMS || s.Place == clientside.InInstructionFile && s.Partial {
		return s, nil
	}
	if err := m.ask(ctx, o, &s); err != nil {
		s.free()
		return none, err
	}
	if s.holds && s.action != refuse {
		s.settle(o, m.rules)
	}
	return s, nil
}

// settle says whether data keys that are under an old key are moved.
func (s *sealed) settle(o object, r rules) {
	if s.Refusal != "" {
		reason := ReasonEnvelopeFormat
		if o.size > clientside.MaxBody && s.Format != clientside.EncryptionSDK {
			reason = ReasonEnvelopeLarge
		}
		s.refuse(reason, "%s", s.Refusal)
		return
	}
	s.decision = decideEnvelope(o, s.Place, r)
	switch {
	case s.reason == ReasonEnvelopeFile:
		s.refuse(s.reason, "its data key is under an old key, and moves only where its body may be written anew (--rewrite-files)")
	case s.action == refuse:
		s.refuse(s.reason, "its data key stays under the old key")
	}
}

// decideEnvelope says what to do with data keys under an old key, in an object version that
// decide does not refuse. They move by a copy, or by a new body, and both have to keep all
// that a copy has to.
func decideEnvelope(o object, place clientside.Place, r rules) decision {
	d := (copyMethod{}).decide(o, r)
	switch {
	case o.encryption == string(types.ServerSideEncryptionAwsKmsDsse):
		return decision{refuse, ReasonDSSE}
	case o.locked(r.now):
		return decision{refuse, ReasonObjectLock}
	case d.action == refuse:
		return d
	case o.hiddenMetadata: // all of it is sent again
		return decision{refuse, ReasonMetadata}
	case place == clientside.InMetadata:
		return decision{action: rewrap}
	case place == clientside.InBody && !r.rewriteFiles:
		return decision{refuse, ReasonEnvelopeFile}
	case o.annotated:
		return decision{refuse, ReasonAnnotations}
	}
	return decision{action: rewrite}
}

// find looks for data keys where the job says.
func (m *mover) find(ctx context.Context, en entry, h *s3.HeadObjectOutput, s *sealed) (err error) {
	s.Found, err = clientside.ByMetadata(h.Metadata)
	switch {
	case err != nil:
		s.Format = "s3-client"
		s.refuse(ReasonEnvelopeMalformed, "%v", err)
		return nil
	case s.Format != clientside.None && s.Place == clientside.InInstructionFile:
		return m.findInstruction(ctx, en, s)
	case s.Format != clientside.None:
		return nil
	}
	size := aws.ToInt64(h.ContentLength)
	_, marked := h.Metadata[instructionMark]
	switch instruction := strings.HasSuffix(en.key, clientside.InstructionSuffix); {
	case instruction && size > maxInstruction && marked:
		s.Format = "s3-client"
		s.refuse(ReasonEnvelopeMalformed, "the instruction file has %d bytes, and %d is the most that is read", size, maxInstruction)
		return nil
	case instruction && size <= maxInstruction:
		body, err := m.read(ctx, en, h, size, s)
		if err != nil || s.action == refuse {
			return err
		}
		found, err := clientside.ByInstructionFile(body)
		switch {
		case err == nil:
			s.Found = found
			return nil
		case marked:
			s.Format = "s3-client"
			s.refuse(ReasonEnvelopeMalformed, "%v", err)
			return nil
		}
	}
	if m.Envelopes != EnvelopesContent || size == 0 {
		return nil
	}
	head, err := m.read(ctx, en, h, min(size, clientside.HeadSize), s)
	if err != nil || s.action == refuse {
		return err
	}
	s.Found = clientside.ByContent(head, size)
	if !s.Partial || s.Refusal != "" {
		return nil
	}
	select { // a large body is a rare thing, and memory is small
	case m.e.bodies <- struct{}{}:
		s.free = func() { <-m.e.bodies }
	case <-ctx.Done():
		return ctx.Err()
	}
	body, err := m.read(ctx, en, h, size, s)
	if err != nil || s.action == refuse {
		return err
	}
	s.Found = clientside.ByContent(body, size)
	return nil
}

// findInstruction looks whether the instruction file is there that an object needs. It is
// an object of its own, in the same scope, and its data key moves when its turn comes.
func (m *mover) findInstruction(ctx context.Context, en entry, s *sealed) error {
	if !en.latest { // which one was its own, nothing says
		return nil
	}
	_, err := m.head(ctx, en.key+clientside.InstructionSuffix, "", false)
	switch {
	case err != nil && classify(err) == faultGone:
		s.refuse(ReasonEnvelopeInstruction, "its data key is in an instruction file, and there is none at %s", en.key+clientside.InstructionSuffix)
		return nil
	case err != nil && classify(err) == faultRejected: // it is there
		return nil
	}
	return err
}

// read reads the first n bytes of what HEAD has seen. What keeps it from being read for
// good refuses s.
func (m *mover) read(ctx context.Context, en entry, h *s3.HeadObjectOutput, n int64, s *sealed) ([]byte, error) {
	in := &s3.GetObjectInput{Bucket: &m.Bucket, Key: &en.key, VersionId: h.VersionId, IfMatch: h.ETag, ExpectedBucketOwner: &m.e.opt.Account}
	if n < aws.ToInt64(h.ContentLength) {
		in.Range = aws.String(fmt.Sprintf("bytes=0-%d", n-1))
	}
	out, err := m.e.opt.S3.GetObject(ctx, in, m.e.throttlesBack)
	if err != nil {
		switch classify(err) {
		case faultDenied, faultKey, faultArchived, faultUnsupported, faultRejected:
			s.refuse(ReasonEnvelopeUnread, "its content could not be read: %s", words(err))
			return nil, nil
		default:
			return nil, &operationError{"GetObject", err}
		}
	}
	defer func() { _ = out.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(out.Body, n+1))
	if err == nil && int64(len(body)) != n {
		err = fmt.Errorf("%d bytes came, and not %d", len(body), n)
	}
	return body, wrap("GetObject", err)
}

// ask asks KMS whether data keys are under an old key, and has it move those that can be:
// nothing is written yet.
func (m *mover) ask(ctx context.Context, o object, s *sealed) error {
	if len(s.Keys) == 0 { // other services wrap them, or, where it is refused, nobody can say who does
		s.holds = s.Refusal != ""
		return nil
	}
	s.asked = true
	for range s.Keys { // how many a body claims to have is its writer's choice
		if err := m.rate.wait(ctx); err != nil {
			return err
		}
	}
	var err error
	if s.Refusal != "" || m.To == "" {
		s.holds, err = s.Under(ctx, m.e.opt.KMS, m.From, nil)
	} else {
		move := clientside.Move{From: m.From, To: m.To}
		if move.Aliases, err = m.aliases(ctx, s.Keys); err != nil {
			return err
		}
		s.moved, err = s.Rewrap(ctx, m.e.opt.KMS, move)
		s.holds = s.moved.Moved > 0
	}
	s.proved = s.holds
	if err != nil && m.To == "" && len(s.Keys) == 1 && o.keyARN != "" && !slices.Contains(m.From, o.keyARN) {
		// KMS says nothing of a key that is disabled. Where the data key is under the key of
		// the object, as after a job, it is under no other.
		if elsewhere, failed := s.Under(ctx, m.e.opt.KMS, []string{o.keyARN}, nil); failed == nil && elsewhere {
			err = nil
		}
	}
	const cannot = "KMS does not move its data key, or say whether it is under an old key: "
	switch fault := classify(err); {
	case err == nil:
	case fault == faultTransient || fault == faultThrottled:
		return &operationError{"ReEncrypt", err}
	case hasCode(err, "DisabledException"), hasCode(err, "KMSInvalidStateException"), hasCode(err, "NotFoundException"):
		s.refuse(ReasonKeyUnusable, cannot+"%s", words(err))
	case fault == faultDenied, hasCode(err, "AccessDeniedException"):
		s.refuse(ReasonEnvelopeKMS, cannot+"%s; needed: %s", words(err), needs["ReEncrypt"])
	default:
		s.refuse(ReasonEnvelopeKMS, cannot+"%s", words(err))
	}
	return nil
}

// aliases returns the labels of data keys that are aliases of the key to move to. A label
// is its writer's choice: where KMS rejects one, does not say what it is, or is not asked any
// more (maxLabels), the key to move to is named in its place.
func (m *mover) aliases(ctx context.Context, keys []clientside.Key) ([]string, error) {
	var all []string
	to := arn.Parse(m.To)
	for _, k := range keys {
		label := arn.Parse(k.Label)
		if !strings.HasPrefix(label.Resource, "alias/") || len(label.Resource) > maxAlias || label.Account != to.Account || label.Region != to.Region {
			continue
		}
		if _, known := m.keys.Load(k.Label); !known && m.labels.Add(1) > maxLabels {
			continue
		}
		keyARN, err := m.resolve(ctx, k.Label)
		if fault := classify(err); err != nil && (fault == faultTransient || fault == faultThrottled) {
			return nil, err
		}
		if err == nil && keyARN == m.To {
			all = append(all, k.Label)
		}
	}
	return all, nil
}

// examineSealed reads of an object whose data keys are to move what is not known yet of it,
// settles it again, and returns HEAD's answer with the checksum. errChanged: it is not the
// object any more of which s is.
func (m *mover) examineSealed(ctx context.Context, en *entry, h *s3.HeadObjectOutput, o *object, s *sealed) (*s3.HeadObjectOutput, error) {
	if m.rules.method.traits().checksums != yes {
		was := h
		var err error
		switch h, err = m.head(ctx, en.key, aws.ToString(was.VersionId), true); {
		case err != nil:
			return nil, err
		case aws.ToString(h.ETag) != aws.ToString(was.ETag) || !aws.ToTime(h.LastModified).Equal(aws.ToTime(was.LastModified)):
			return nil, &operationError{"HeadObject", errChanged}
		}
		en.sees(h)
	}
	err := (copyMethod{}).examine(ctx, m, *en, h, o)
	if err == nil && s.action == rewrite {
		o.annotated, err = m.annotated(ctx, en.key, aws.ToString(h.VersionId))
	}
	if err == nil {
		s.settle(*o, m.rules)
	}
	return h, err
}

// reseal writes the moved data keys, and with them the object under the new key where d
// moves it. All else stays what HEAD has shown.
func (m *mover) reseal(ctx context.Context, en entry, h *s3.HeadObjectOutput, o object, d decision, s sealed) error {
	if s.moved.Metadata == nil && s.moved.Body == nil { // this must not be: an object would be emptied
		return fmt.Errorf("re-wrap %q: no data key has moved", en.key)
	}
	after := *h
	to := goal{HeadObjectOutput: &after, key: m.To, resent: true}
	if !d.action.moves() {
		to.key = o.keyARN
		if o.encryption != string(types.ServerSideEncryptionAwsKms) {
			after.ServerSideEncryption, to.key = types.ServerSideEncryptionAes256, ""
		}
	}
	if s.action == rewrite {
		return m.putBody(ctx, en, h, to, o.grants, s.moved.Body)
	}
	after.Metadata = s.moved.Metadata
	if o.size > m.rules.maxCopy {
		return m.copyParts(ctx, en, h, to, o.grants)
	}
	return wrap("CopyObject", m.copyWhole(ctx, en, h, to, o.grants))
}

// putBody puts another body in place of an object that is still what HEAD has shown, and
// checks it. S3 has no condition by which tags, or metadata of an object under a key of
// S3's own, are kept that others change in the moment between.
func (m *mover) putBody(ctx context.Context, en entry, h *s3.HeadObjectOutput, to goal, g grants, body []byte) error {
	tags, err := m.tags(ctx, en.key, aws.ToString(h.VersionId))
	if err != nil {
		return err
	}
	out, err := m.e.opt.S3.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &m.Bucket, Key: &en.key, IfMatch: h.ETag, ExpectedBucketOwner: &m.e.opt.Account, Body: bytes.NewReader(body),
		ServerSideEncryption: to.ServerSideEncryption, SSEKMSKeyId: optional(to.key), BucketKeyEnabled: to.BucketKeyEnabled,
		Metadata: to.Metadata, Tagging: tags,
		CacheControl: to.CacheControl, ContentDisposition: to.ContentDisposition, ContentEncoding: to.ContentEncoding,
		ContentLanguage: to.ContentLanguage, ContentType: to.ContentType,
		StorageClass: to.StorageClass, WebsiteRedirectLocation: to.WebsiteRedirectLocation, ChecksumAlgorithm: en.checksum,
		GrantFullControl: g.full, GrantRead: g.read, GrantReadACP: g.readACP, GrantWriteACP: g.writeACP,
	}, m.e.throttlesBack, verbatimExpires(to.ExpiresString))
	if err != nil {
		return &operationError{"PutObject", err}
	}
	to.ContentLength, to.ChecksumType = aws.Int64(int64(len(body))), "" // S3 has checked the new one
	_, err = m.checkCopy(ctx, en.key, to, aws.ToString(out.ETag), aws.ToString(out.VersionId))
	return err
}

// judgeEnvelopes says what else a job meets that moves data keys.
func judgeEnvelopes(f settings) []Finding {
	if f.Envelopes == "" {
		return nil
	}
	all := []Finding{{findingEnvelopes, SeverityWarn,
		"Data keys of client-side encryption move to the new key with the objects. An application that names an old key by its id or ARN to read them fails then (IncorrectKeyException). One that names the alias, and SOPS with a file that does, fails for each object between the moves of the alias and of the object. Each reader needs kms:Decrypt on the new key.",
		"Let readers name no key (the S3 Encryption Client for Go calls that KmsAnyKey keyring), or both keys, one after the other, until the job is complete. From then on the alias or the new key will do."}}
	for _, k := range f.from {
		if k.dryRun != "" {
			all = append(all, Finding{findingEnvelopes, SeverityWarn,
				fmt.Sprintf("KMS refuses kms:ReEncrypt from %s to the new key (%s): data keys in objects are refused then.", k.arn, k.dryRun), "Grant " + needs["ReEncrypt"] + "."})
		}
	}
	if f.Envelopes == EnvelopesContent {
		all = append(all, Finding{findingEnvelopes, SeverityNote, "The beginning of each object is read, in each pass. In Intelligent-Tiering that counts as access: the object goes back to the frequent access tier.", ""})
	}
	if f.method.traits().name == MethodCopy {
		return all
	}
	return append(all, slices.DeleteFunc((copyMethod{}).judge(f), func(f Finding) bool { return f.Name == findingReplication })...)
}

// notes say what is not kept of the objects of s, for the report of what came of it.
func (s spec) notes(c Counts) []string {
	all := s.Method.notes()
	if len(c.Rewrapped) == 0 {
		return all
	}
	for _, note := range (copyMethod{}).traits().notes {
		if !slices.Contains(all, note) {
			all = append(all, "Where data keys were moved: "+note)
		}
	}
	return append(all, "Moving a data key does not change it: whoever has had it can still read what it encrypts, and older versions of the object keep it under the old key.")
}

// errChanged means that an object was written meanwhile.
var errChanged = errors.New("it was written meanwhile")

var errNoKMS = errors.New("moving data keys of client-side encryption needs a KMS client")
