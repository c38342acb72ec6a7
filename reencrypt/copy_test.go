package reencrypt

import (
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"
)

var oddKeys = []string{
	"plain", "with space", "a+b", "a&b=c", "ünïcode/日本", "new\nline", "percent%20sign", "q?x#y", "//slashes//", "quote\"'<>", strings.Repeat("k", 1024),
}

func TestCopySource(t *testing.T) {
	for _, key := range oddKeys {
		source := copySource("bucket", key, "v/1+2")
		path, query, _ := strings.Cut(source, "?")
		back, err := url.PathUnescape(path)
		values, qerr := url.ParseQuery(query)
		if err != nil || qerr != nil || back != "bucket/"+key || values.Get("versionId") != "v/1+2" {
			t.Errorf("%q becomes %q", key, source)
		}
		if strings.ContainsAny(source, " +\n\"<>#") {
			t.Errorf("%q has bytes that no header or URL may have", source)
		}
	}
	if got := copySource("b", "k", ""); got != "b/k" {
		t.Errorf("without a version: %q", got)
	}
}

func TestGrantHeaders(t *testing.T) {
	user := func(id string) *types.Grantee { return &types.Grantee{Type: types.TypeCanonicalUser, ID: &id} }
	everybody := &types.Grantee{Type: types.TypeGroup, URI: aws.String("http://acs.amazonaws.com/groups/global/AllUsers")}
	full := types.Grant{Grantee: user("me"), Permission: types.PermissionFullControl}
	for name, c := range map[string]struct {
		owner  string
		grants []types.Grant
		want   [4]string
		state  aclState
	}{
		"private":         {owner: "me", grants: []types.Grant{full}},
		"somebody else's": {owner: "you", grants: []types.Grant{full}, state: aclForeign},
		"nobody's":        {grants: []types.Grant{full}, state: aclForeign},
		"public": {
			owner: "me", grants: []types.Grant{full, {Grantee: everybody, Permission: types.PermissionRead}, {Grantee: user("b"), Permission: types.PermissionRead}},
			want: [4]string{`id="me"`, `id="b", uri="http://acs.amazonaws.com/groups/global/AllUsers"`},
		},
		"owner without a grant": {
			owner: "me", grants: []types.Grant{{Grantee: user("b"), Permission: types.PermissionReadAcp}, {Grantee: user("c"), Permission: types.PermissionWriteAcp}},
			want: [4]string{"", "", `id="b"`, `id="c"`},
		},
		"nothing for anybody":         {owner: "me", state: aclOdd},
		"permission objects lack":     {owner: "me", grants: []types.Grant{full, {Grantee: user("b"), Permission: types.PermissionWrite}}, state: aclOdd},
		"grantee of an unknown type":  {owner: "me", grants: []types.Grant{full, {Grantee: &types.Grantee{Type: "New"}, Permission: types.PermissionRead}}, state: aclOdd},
		"grantee that breaks headers": {owner: "me", grants: []types.Grant{full, {Grantee: user("a\"\r\nb"), Permission: types.PermissionRead}}, state: aclOdd},
	} {
		t.Run(name, func(t *testing.T) {
			out := &s3.GetObjectAclOutput{Grants: c.grants}
			if c.owner != "" {
				out.Owner = &types.Owner{ID: &c.owner}
			}
			g, state := grantHeaders(out, "me")
			got := [4]string{aws.ToString(g.full), aws.ToString(g.read), aws.ToString(g.readACP), aws.ToString(g.writeACP)}
			if d := cmp.Diff(c.want, got); d != "" || state != c.state {
				t.Errorf("state %d, want %d; headers %s", state, c.state, d)
			}
		})
	}
}

func TestDifferences(t *testing.T) {
	before := func() *s3.HeadObjectOutput {
		return &s3.HeadObjectOutput{
			ContentLength: aws.Int64(5), Metadata: map[string]string{"a": "b"}, TagCount: aws.Int32(1), ContentType: aws.String("text/plain"),
			ExpiresString: aws.String("whenever"), ServerSideEncryption: types.ServerSideEncryptionAwsKms,
			ChecksumType: types.ChecksumTypeFullObject, ChecksumCRC32: aws.String("AAAAAA=="),
		}
	}
	if d := differences(before(), before()); d != nil {
		t.Errorf("same objects differ in %v", d)
	}
	after := before()
	after.StorageClass = types.StorageClassStandard // which is what none means
	after.ETag, after.VersionId = aws.String("new"), aws.String("new")
	after.ChecksumType = types.ChecksumTypeComposite
	after.ChecksumCRC32 = aws.String("other")
	if d := differences(before(), after); d != nil {
		t.Errorf("what a copy cannot keep is held against it: %v", d)
	}
	for name, change := range map[string]func(*s3.HeadObjectOutput){
		"size":               func(h *s3.HeadObjectOutput) { h.ContentLength = aws.Int64(6) },
		"metadata":           func(h *s3.HeadObjectOutput) { h.Metadata = nil },
		"tags":               func(h *s3.HeadObjectOutput) { h.TagCount = nil },
		"storage class":      func(h *s3.HeadObjectOutput) { h.StorageClass = types.StorageClassStandardIa },
		"Content-Type":       func(h *s3.HeadObjectOutput) { h.ContentType = aws.String("binary/octet-stream") },
		"Expires":            func(h *s3.HeadObjectOutput) { h.ExpiresString = nil },
		"bucket key":         func(h *s3.HeadObjectOutput) { h.BucketKeyEnabled = aws.Bool(true) },
		"checksum":           func(h *s3.HeadObjectOutput) { h.ChecksumCRC32 = aws.String("BBBBBB==") },
		"lock":               func(h *s3.HeadObjectOutput) { h.ObjectLockMode = types.ObjectLockModeGovernance },
		"Cache-Control":      func(h *s3.HeadObjectOutput) { h.CacheControl = aws.String("x") },
		"kind of encryption": func(h *s3.HeadObjectOutput) { h.ServerSideEncryption = types.ServerSideEncryptionAes256 },
	} {
		after := before()
		change(after)
		if d := cmp.Diff([]string{name}, differences(before(), after)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestResendable(t *testing.T) {
	for value, want := range map[string]bool{"": true, "plain text": true, "ü": false, "tab\t": false, "=?UTF-8?B?w7w=?=": false} {
		if got := resendable(map[string]string{"k": value}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
