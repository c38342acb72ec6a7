package s3

import (
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// operation is one operation of S3: what it needs and what serves it.
type operation struct {
	serve func(*Service, *call) error
	// actions are the IAM actions that it needs on what it is about, and
	// versioned those that it needs instead when the request names a version
	// (nil: the same ones).
	actions, versioned []string
	// global operations work without an existing bucket.
	global bool
	// recorded operations come back as events. AWS records every change of a
	// bucket; those of objects are data events, which EventBridge does not get.
	recorded bool
}

func (o operation) needs(version bool) []string {
	if version && o.versioned != nil {
		return o.versioned
	}
	return o.actions
}

// operations holds every operation that is modelled. The actions are those of
// the service authorization reference of S3.
var operations = sync.OnceValue(func() map[string]operation {
	return map[string]operation{
		"ListBuckets":  {serve: (*Service).listBuckets, actions: []string{"s3:ListAllMyBuckets"}, global: true},
		"CreateBucket": {serve: (*Service).createBucket, actions: []string{"s3:CreateBucket"}, global: true, recorded: true},
		"HeadBucket":   {serve: (*Service).headBucket, actions: []string{"s3:ListBucket"}},
		"DeleteBucket": {serve: (*Service).deleteBucket, actions: []string{"s3:DeleteBucket"}, recorded: true},

		"GetBucketLocation":                  {serve: (*Service).getBucketLocation, actions: []string{"s3:GetBucketLocation"}},
		"GetBucketVersioning":                {serve: (*Service).getBucketVersioning, actions: []string{"s3:GetBucketVersioning"}},
		"PutBucketVersioning":                {serve: (*Service).putBucketVersioning, actions: []string{"s3:PutBucketVersioning"}},
		"GetBucketEncryption":                {serve: (*Service).getBucketEncryption, actions: []string{"s3:GetEncryptionConfiguration"}},
		"PutBucketEncryption":                {serve: (*Service).putBucketEncryption, actions: []string{"s3:PutEncryptionConfiguration"}, recorded: true},
		"DeleteBucketEncryption":             {serve: (*Service).deleteBucketEncryption, actions: []string{"s3:PutEncryptionConfiguration"}, recorded: true},
		"GetObjectLockConfiguration":         {serve: (*Service).getObjectLockConfiguration, actions: []string{"s3:GetBucketObjectLockConfiguration"}},
		"PutObjectLockConfiguration":         {serve: (*Service).putObjectLockConfiguration, actions: []string{"s3:PutBucketObjectLockConfiguration"}},
		"GetBucketOwnershipControls":         {serve: (*Service).getBucketOwnershipControls, actions: []string{"s3:GetBucketOwnershipControls"}},
		"PutBucketOwnershipControls":         {serve: (*Service).putBucketOwnershipControls, actions: []string{"s3:PutBucketOwnershipControls"}},
		"GetBucketAcl":                       {serve: (*Service).getBucketACL, actions: []string{"s3:GetBucketAcl"}},
		"GetBucketPolicy":                    {serve: (*Service).getBucketPolicy, actions: []string{"s3:GetBucketPolicy"}},
		"PutBucketPolicy":                    {serve: (*Service).putBucketPolicy, actions: []string{"s3:PutBucketPolicy"}, recorded: true},
		"DeleteBucketPolicy":                 {serve: (*Service).deleteBucketPolicy, actions: []string{"s3:DeleteBucketPolicy"}, recorded: true},
		"GetBucketTagging":                   {serve: (*Service).getBucketTagging, actions: []string{"s3:GetBucketTagging"}},
		"PutBucketTagging":                   {serve: (*Service).putBucketTagging, actions: []string{"s3:PutBucketTagging"}},
		"DeleteBucketTagging":                {serve: (*Service).deleteBucketTagging, actions: []string{"s3:PutBucketTagging"}},
		"GetBucketNotificationConfiguration": {serve: getKept(notification, nil), actions: []string{"s3:GetBucketNotification"}},
		"PutBucketNotificationConfiguration": {serve: putKept(notification), actions: []string{"s3:PutBucketNotification"}},
		"GetBucketReplication":               {serve: getKept(replication, wire.Errorf(404, "ReplicationConfigurationNotFoundError", "The replication configuration was not found")), actions: []string{"s3:GetReplicationConfiguration"}},
		"PutBucketReplication":               {serve: putKept(replication), actions: []string{"s3:PutReplicationConfiguration"}},
		"GetBucketLifecycleConfiguration":    {serve: getKept(lifecycle, wire.Errorf(404, "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")), actions: []string{"s3:GetLifecycleConfiguration"}},
		"PutBucketLifecycleConfiguration":    {serve: putKept(lifecycle), actions: []string{"s3:PutLifecycleConfiguration"}},

		"ListObjects":        {serve: (*Service).listObjects, actions: []string{"s3:ListBucket"}},
		"ListObjectsV2":      {serve: (*Service).listObjectsV2, actions: []string{"s3:ListBucket"}},
		"ListObjectVersions": {serve: (*Service).listObjectVersions, actions: []string{"s3:ListBucketVersions"}},

		"PutObject":           {serve: (*Service).putObject, actions: []string{"s3:PutObject"}},
		"GetObject":           {serve: (*Service).getObject, actions: []string{"s3:GetObject"}, versioned: []string{"s3:GetObjectVersion"}},
		"HeadObject":          {serve: (*Service).headObject, actions: []string{"s3:GetObject"}, versioned: []string{"s3:GetObjectVersion"}},
		"DeleteObject":        {serve: (*Service).deleteObject, actions: []string{"s3:DeleteObject"}, versioned: []string{"s3:DeleteObjectVersion"}},
		"CopyObject":          {serve: (*Service).copyObject, actions: []string{"s3:PutObject"}},
		"DeleteObjects":       {serve: (*Service).deleteObjects}, // asks for each object
		"GetObjectAttributes": {serve: (*Service).getObjectAttributes, actions: []string{"s3:GetObject", "s3:GetObjectAttributes"}, versioned: []string{"s3:GetObjectVersion", "s3:GetObjectVersionAttributes"}},
		"GetObjectAcl":        {serve: (*Service).getObjectACL, actions: []string{"s3:GetObjectAcl"}, versioned: []string{"s3:GetObjectVersionAcl"}},
		"PutObjectAcl":        {serve: (*Service).putObjectACL, actions: []string{"s3:PutObjectAcl"}, versioned: []string{"s3:PutObjectVersionAcl"}},
		"GetObjectTagging":    {serve: (*Service).getObjectTagging, actions: []string{"s3:GetObjectTagging"}, versioned: []string{"s3:GetObjectVersionTagging"}},
		"PutObjectTagging":    {serve: (*Service).putObjectTagging, actions: []string{"s3:PutObjectTagging"}, versioned: []string{"s3:PutObjectVersionTagging"}},
		"DeleteObjectTagging": {serve: (*Service).deleteObjectTagging, actions: []string{"s3:DeleteObjectTagging"}, versioned: []string{"s3:DeleteObjectVersionTagging"}},
		"GetObjectRetention":  {serve: (*Service).getObjectRetention, actions: []string{"s3:GetObjectRetention"}},
		"PutObjectRetention":  {serve: (*Service).putObjectRetention, actions: []string{"s3:PutObjectRetention"}},
		"GetObjectLegalHold":  {serve: (*Service).getObjectLegalHold, actions: []string{"s3:GetObjectLegalHold"}},
		"PutObjectLegalHold":  {serve: (*Service).putObjectLegalHold, actions: []string{"s3:PutObjectLegalHold"}},
		"RestoreObject":       {serve: (*Service).restoreObject, actions: []string{"s3:RestoreObject"}},

		"UpdateObjectEncryption": {serve: (*Service).updateObjectEncryption, actions: []string{"s3:UpdateObjectEncryption", "s3:PutObject"}},

		"CreateMultipartUpload":   {serve: (*Service).createMultipartUpload, actions: []string{"s3:PutObject"}},
		"UploadPart":              {serve: (*Service).uploadPart, actions: []string{"s3:PutObject"}},
		"UploadPartCopy":          {serve: (*Service).uploadPartCopy, actions: []string{"s3:PutObject"}},
		"CompleteMultipartUpload": {serve: (*Service).completeMultipartUpload, actions: []string{"s3:PutObject"}},
		"AbortMultipartUpload":    {serve: (*Service).abortMultipartUpload, actions: []string{"s3:AbortMultipartUpload"}},
		"ListParts":               {serve: (*Service).listParts, actions: []string{"s3:ListMultipartUploadParts"}},
		"ListMultipartUploads":    {serve: (*Service).listMultipartUploads, actions: []string{"s3:ListBucketMultipartUploads"}},
	}
})

// bucketRoutes and objectRoutes name the operation of a method and subresource.
var (
	bucketRoutes = map[string]string{
		"PUT":                   "CreateBucket",
		"HEAD":                  "HeadBucket",
		"DELETE":                "DeleteBucket",
		"GET":                   "ListObjects",
		"GET list-type":         "ListObjectsV2",
		"GET versions":          "ListObjectVersions",
		"GET uploads":           "ListMultipartUploads",
		"POST delete":           "DeleteObjects",
		"GET location":          "GetBucketLocation",
		"GET versioning":        "GetBucketVersioning",
		"PUT versioning":        "PutBucketVersioning",
		"GET encryption":        "GetBucketEncryption",
		"PUT encryption":        "PutBucketEncryption",
		"DELETE encryption":     "DeleteBucketEncryption",
		"GET object-lock":       "GetObjectLockConfiguration",
		"PUT object-lock":       "PutObjectLockConfiguration",
		"GET ownershipControls": "GetBucketOwnershipControls",
		"PUT ownershipControls": "PutBucketOwnershipControls",
		"GET acl":               "GetBucketAcl",
		"GET policy":            "GetBucketPolicy",
		"PUT policy":            "PutBucketPolicy",
		"DELETE policy":         "DeleteBucketPolicy",
		"GET tagging":           "GetBucketTagging",
		"PUT tagging":           "PutBucketTagging",
		"DELETE tagging":        "DeleteBucketTagging",
		"GET notification":      "GetBucketNotificationConfiguration",
		"PUT notification":      "PutBucketNotificationConfiguration",
		"GET replication":       "GetBucketReplication",
		"PUT replication":       "PutBucketReplication",
		"GET lifecycle":         "GetBucketLifecycleConfiguration",
		"PUT lifecycle":         "PutBucketLifecycleConfiguration",
	}
	objectRoutes = map[string]string{
		"PUT":             "PutObject",
		"PUT copy":        "CopyObject",
		"GET":             "GetObject",
		"HEAD":            "HeadObject",
		"DELETE":          "DeleteObject",
		"PUT encryption":  "UpdateObjectEncryption",
		"GET attributes":  "GetObjectAttributes",
		"GET acl":         "GetObjectAcl",
		"PUT acl":         "PutObjectAcl",
		"GET tagging":     "GetObjectTagging",
		"PUT tagging":     "PutObjectTagging",
		"DELETE tagging":  "DeleteObjectTagging",
		"GET retention":   "GetObjectRetention",
		"PUT retention":   "PutObjectRetention",
		"GET legal-hold":  "GetObjectLegalHold",
		"PUT legal-hold":  "PutObjectLegalHold",
		"POST restore":    "RestoreObject",
		"POST uploads":    "CreateMultipartUpload",
		"PUT uploadId":    "UploadPart",
		"PUT part-copy":   "UploadPartCopy",
		"POST uploadId":   "CompleteMultipartUpload",
		"DELETE uploadId": "AbortMultipartUpload",
		"GET uploadId":    "ListParts",
	}
)

// parameters are the query parameters that refine an operation. Any other
// parameter is a subresource and selects one.
var parameters = map[string]bool{
	"versionId": true, "partNumber": true, "x-id": true,
	"prefix": true, "delimiter": true, "marker": true, "max-keys": true, "encoding-type": true,
	"continuation-token": true, "start-after": true, "fetch-owner": true,
	"key-marker": true, "version-id-marker": true, "upload-id-marker": true, "max-uploads": true,
	"part-number-marker": true, "max-parts": true,
	"max-buckets": true, "bucket-region": true,
	"response-cache-control": true, "response-content-disposition": true, "response-content-encoding": true,
	"response-content-language": true, "response-content-type": true, "response-expires": true,
	// presigned requests
	"X-Amz-Algorithm": true, "X-Amz-Credential": true, "X-Amz-Date": true, "X-Amz-Expires": true,
	"X-Amz-SignedHeaders": true, "X-Amz-Signature": true, "X-Amz-Security-Token": true,
	"X-Amz-Content-Sha256": true,
}

// OperationName returns the S3 operation that the request asks for, as the API
// names it ("PutObject", "UploadPartCopy"), and "" for one that localaws does
// not know, which a Service answers with NotImplemented.
func OperationName(r *http.Request) string {
	sub := ""
	if r.URL.RawQuery != "" {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return "" // what can not be read may be a subresource
		}
		for name := range query {
			switch {
			case parameters[name]:
			case sub != "":
				return ""
			default:
				sub = name
			}
		}
		if sub == "list-type" && query.Get(sub) != "2" {
			return ""
		}
	}
	bucket, key := address(r)
	if bucket == "" {
		if r.Method == http.MethodGet && sub == "" {
			return "ListBuckets"
		}
		return ""
	}
	routes := bucketRoutes
	if key != "" {
		routes = objectRoutes
		if r.Method == http.MethodPut && r.Header["X-Amz-Copy-Source"] != nil {
			switch sub {
			case "":
				sub = "copy"
			case "uploadId":
				sub = "part-copy"
			}
		}
	}
	if sub == "" {
		return routes[r.Method]
	}
	return routes[r.Method+" "+sub]
}

// address returns the bucket and the key that the request is about.
func address(r *http.Request) (bucket, key string) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if bucket := virtualHost(r.Host); bucket != "" {
		return bucket, path
	}
	bucket, key, _ = strings.Cut(path, "/")
	return bucket, key
}

// virtualHost returns the bucket that the host names, or "". A host is one of
// BUCKET.localhost, BUCKET.localaws.internal and BUCKET.s3.REGION.amazonaws.com.
func virtualHost(host string) string {
	if !strings.Contains(host, ".") {
		return ""
	}
	host, _, _ = strings.Cut(host, ":")
	for _, suffix := range []string{".localhost", ".localaws.internal"} {
		if bucket, ok := strings.CutSuffix(host, suffix); ok {
			return bucket
		}
	}
	if bucket, rest, ok := strings.Cut(host, ".s3."); ok && strings.HasSuffix(rest, "amazonaws.com") {
		return bucket
	}
	return ""
}

// headers are the x-amz- headers that the service understands or may ignore
// without doing anything else than what was asked.
var headers = sync.OnceValue(func() map[string]bool {
	known := map[string]bool{}
	for _, name := range strings.Fields(`
		Acl Bucket-Object-Lock-Enabled Bypass-Governance-Retention
		Checksum-Algorithm Checksum-Mode Checksum-Type Content-Sha256
		Copy-Source Copy-Source-If-Match Copy-Source-If-Modified-Since Copy-Source-If-None-Match Copy-Source-If-Unmodified-Since Copy-Source-Range
		Copy-Source-Server-Side-Encryption-Customer-Algorithm Copy-Source-Server-Side-Encryption-Customer-Key Copy-Source-Server-Side-Encryption-Customer-Key-Md5
		Date Decoded-Content-Length Expected-Bucket-Owner
		Grant-Full-Control Grant-Read Grant-Read-Acp Grant-Write Grant-Write-Acp
		Max-Parts Metadata-Directive Mp-Object-Size
		Object-Attributes Object-Lock-Legal-Hold Object-Lock-Mode Object-Lock-Retain-Until-Date Object-Ownership
		Optional-Object-Attributes Part-Number-Marker Request-Payer Sdk-Checksum-Algorithm Security-Token
		Server-Side-Encryption Server-Side-Encryption-Aws-Kms-Key-Id Server-Side-Encryption-Bucket-Key-Enabled Server-Side-Encryption-Context
		Server-Side-Encryption-Customer-Algorithm Server-Side-Encryption-Customer-Key Server-Side-Encryption-Customer-Key-Md5
		Source-Expected-Bucket-Owner Storage-Class Tagging Tagging-Directive Trailer User-Agent Website-Redirect-Location`) {
		known["X-Amz-"+name] = true
	}
	for _, a := range algorithms {
		known[a.header] = true
	}
	return known
})

func knownHeader(name string) bool {
	return !strings.HasPrefix(name, "X-Amz-") || headers()[name] || strings.HasPrefix(name, metaPrefix)
}

// decodeSource splits an x-amz-copy-source header into its parts. The header is
// URL-encoded, and S3 reads a plus sign in it as a space.
func decodeSource(header string) (bucket, key, versionID string, err error) {
	invalid := invalidArgument("x-amz-copy-source", header, "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
	path, query, _ := strings.Cut(header, "?")
	if query != "" {
		values, err := url.ParseQuery(query)
		if err != nil || values.Get("versionId") == "" {
			return "", "", "", invalid
		}
		versionID = values.Get("versionId")
	}
	path, err = url.QueryUnescape(path)
	if err != nil {
		return "", "", "", invalid
	}
	bucket, key, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if bucket == "" || key == "" || strings.HasPrefix(bucket, "arn:") {
		return "", "", "", invalid
	}
	return bucket, key, versionID, nil
}
