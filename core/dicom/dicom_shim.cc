#include "dicom/dicom_shim.h"

extern "C" {
#include "dicom/dicom_charset.h"
#include "dicom/dicom_codec.h"
}
#include "dicom/dicom_fdstream.h"
#include "dicom/dicom_scan.h"

#include "dcmtk/dcmdata/dcdeftag.h"
#include "dcmtk/dcmdata/dcdict.h"
#include "dcmtk/dcmdata/dcelem.h"
#include "dcmtk/dcmdata/dcuid.h"
#include "dcmtk/dcmdata/dcxfer.h"
#include "dcmtk/oflog/oflog.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include <sys/stat.h>
#include <unistd.h>

namespace
{

// Bytes of a value that are looked at: every character set has at most 8 bytes (with escape
// sequences) a character.
constexpr size_t MAX_RAW = 8 * DICOM_MAX_VALUE;

char reason[DICOM_MAX_REASON];
char values[DICOM_MAX_TAGS][DICOM_MAX_VALUE + 1];

struct File {
    int fd;
    offile_off_t size;
    offile_off_t start = 0;   // of the meta header, or of the data set if there is none
    offile_off_t dataset = 0; // of the data set
    bool prefix = false;      // "DICM" was found
    std::vector<DcmTagKey> wanted;
    ScannedDataset meta;
    ScannedDataset body;
    E_TransferSyntax xfer = EXS_Unknown;
    std::string transferSyntax;
};

int answerWith(struct dicom_answer *answer, int status, const char *text, const char *more = "")
{
    answer->status = status;
    snprintf(reason, sizeof(reason), "%s%s", text, more);
    return status;
}

bool isText(DcmEVR vr)
{
    switch (vr) {
    case EVR_AE:
    case EVR_AS:
    case EVR_CS:
    case EVR_DA:
    case EVR_DS:
    case EVR_DT:
    case EVR_IS:
    case EVR_LO:
    case EVR_LT:
    case EVR_PN:
    case EVR_SH:
    case EVR_ST:
    case EVR_TM:
    case EVR_UC:
    case EVR_UI:
    case EVR_UR:
    case EVR_UT:
        return true;
    default:
        return false;
    }
}

// The bytes of a value as they are in the file, as many as are of use.
bool rawValue(DcmElement &element, std::string &ret)
{
    ret.clear();
    if (element.getLengthField() == 0) {
        return true;
    }
    if (element.valueLoaded()) {
        char *text = nullptr;
        Uint32 length = 0;
        if (element.getString(text, length).bad()) {
            return false;
        }
        ret.assign(text != nullptr ? text : "", text != nullptr ? length : 0);
        return true;
    }
    const Uint32 length = std::min(static_cast<Uint32>(MAX_RAW), element.getLengthField());
    ret.resize(length);
    return element.getPartialValue(&ret[0], 0, length).good();
}

void trim(char *text, bool leading)
{
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == ' ') {
        text[--length] = '\0';
    }
    const size_t blanks = leading ? strspn(text, " ") : 0;
    memmove(text, text + blanks, length - blanks + 1);
}

// An element's value as UTF-8 into out; false if the element is absent. Binary values as DCMTK
// prints them ("12", "0008\0018"), those too large to be of use as text as "".
bool elementText(ScannedDataset &from, const DcmTagKey &tag, const char *charset, char *out,
                 size_t size)
{
    DcmElement *element = nullptr;
    std::string raw;
    out[0] = '\0';
    if (from.findAndGetElement(tag, element).bad() || element == nullptr) {
        return false;
    }
    const DcmEVR vr = element->getVR();
    if (isText(vr)) {
        if (rawValue(*element, raw)) {
            dicom_charset_convert(charset, DcmVR(vr).getVRName(), raw.data(), raw.size(), out,
                                  size);
        }
        trim(out, vr != EVR_LT && vr != EVR_ST && vr != EVR_UT);
    } else if (vr == EVR_UN) {
        // Private or from after DCMTK's dictionary: most often it is text.
        const Uint32 length = std::min(static_cast<Uint32>(MAX_RAW), element->getLengthField());
        raw.resize(length);
        if (length > 0 && element->getPartialValue(&raw[0], 0, length).good()) {
            dicom_charset_convert(charset, "UN", raw.data(), raw.size(), out, size);
        }
        trim(out, true);
    } else if (element->valueLoaded()) {
        OFString text;
        if (element->getOFStringArray(text).good()) {
            dicom_charset_convert("", "UN", text.data(), text.length(), out, size);
        }
    }
    return true;
}

void elementUid(ScannedDataset &from, const DcmTagKey &tag, char ret[DICOM_UID_SIZE])
{
    char text[256];
    ret[0] = '\0';
    if (elementText(from, tag, "", text, sizeof(text)) && dicom_codec_is_uid(text)) {
        memcpy(ret, text, strlen(text) + 1);
    }
}

const char *knownFormat(const unsigned char *head, size_t n)
{
    static const struct {
        const char *magic;
        size_t length;
        const char *name;
    } formats[] = {
        {"\x1f\x8b", 2, "it is a gzip file"},
        {"PK\x03\x04", 4, "it is a zip archive"},
        {"\xff\xd8\xff", 3, "it is a JPEG image"},
        {"\x89PNG", 4, "it is a PNG image"},
        {"%PDF", 4, "it is a PDF document"},
        {"BM", 2, "it is a bitmap image"},
        {"\x7f"
         "ELF",
         4, "it is a program"},
        {"MZ", 2, "it is a program"},
        {"BZh", 3, "it is a bzip2 file"},
        {"7z\xbc\xaf", 4, "it is a 7z archive"},
        {"\xfd"
         "7zXZ",
         5, "it is an xz file"},
        {"GIF8", 4, "it is a GIF image"},
        {"<?xml", 5, "it is an XML document"},
        {"\x5c\x01\x00\x00", 4, "it is a NIfTI image"},
    };
    for (const auto &format : formats) {
        if (n >= format.length && memcmp(head, format.magic, format.length) == 0) {
            return format.name;
        }
    }
    // Text in some 8-bit character set has no control characters and mostly ASCII letters.
    size_t high = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = head[i];
        if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t' && c != '\f') || c == 0x7f) {
            return nullptr;
        }
        high += c >= 0x80;
    }
    const bool text = n > 0 && high <= n / 4;
    return text ? "it is text" : nullptr;
}

// Whether the bytes could begin a data set or meta header without prefix: a low group in either
// byte order. The first tag alone; what follows is judged by the scan.
bool couldBegin(const unsigned char *head, size_t n)
{
    if (n < 8) {
        return false;
    }
    const unsigned little = static_cast<unsigned>(head[1] << 8 | head[0]);
    const unsigned big = static_cast<unsigned>(head[0] << 8 | head[1]);
    const unsigned group = std::min(little, big);
    return group >= 0x0002 && group <= 0x0020 && (group & 1) == 0;
}

// Finds where the elements begin; 0 or ERR_NOT_DICOM with the reason.
int findStart(File &file, struct dicom_answer *answer)
{
    unsigned char head[132 + 8] = {};
    ssize_t got;
    do {
        got = pread(file.fd, head, sizeof(head), 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return answerWith(answer, ERR_IO, "it cannot be read");
    }
    const size_t n = static_cast<size_t>(got);
    if (n == 0) {
        return answerWith(answer, ERR_NOT_DICOM, "it is empty");
    }
    // The four letters may also be there by chance, in a data set without preamble.
    if (n >= 132 && memcmp(head + 128, "DICM", 4) == 0 &&
        (couldBegin(head + 132, n - 132) || !couldBegin(head, n))) {
        file.prefix = true;
        file.start = 132;
        return 0;
    }
    if (n >= 12 && memcmp(head, "DICM", 4) == 0 && couldBegin(head + 4, n - 4)) {
        file.prefix = true;
        file.start = 4;
        return 0;
    }
    if (couldBegin(head, n)) {
        return 0;
    }
    const bool zeros = std::all_of(head, head + n, [](unsigned char c) { return c == 0; });
    if (zeros) {
        // Space that a copy allocated and has not yet written looks like this.
        return answerWith(answer, ERR_TRUNCATED, "it begins with zeros and has no prefix DICM");
    }
    const char *format = knownFormat(head, std::min(n, size_t(128)));
    return answerWith(answer, ERR_NOT_DICOM,
                      format != nullptr
                          ? format
                          : "it has neither the prefix DICM nor begins with a data element");
}

// The meta header ends where group 0002 does, whatever (0002,0000) says.
int readMeta(File &file, struct dicom_answer *answer)
{
    FdStream stream({file.fd, file.start, file.size, false});
    const E_TransferSyntax xfer = file.meta.detect(stream, EXS_LittleEndianExplicit);
    const ScanEnd end = file.meta.scan(stream, xfer, file.wanted, 0x0002);
    if (stream.producer().fault() != FdProducer::Fault::none) {
        return answerWith(answer, ERR_IO, "it cannot be read");
    }
    file.dataset = file.start + stream.tell();
    char text[256];
    if (elementText(file.meta, DCM_TransferSyntaxUID, "", text, sizeof(text)) &&
        dicom_codec_is_uid(text)) {
        file.transferSyntax = text;
    }
    if (end == ScanEnd::truncated) {
        return answerWith(answer, ERR_TRUNCATED, file.meta.fault().c_str());
    }
    if (end != ScanEnd::whole) {
        return answerWith(answer, ERR_NOT_DICOM, file.meta.fault().c_str());
    }
    return 0;
}

bool isDeflated(const std::string &transferSyntax)
{
    static const char *const deflated[] = {
        "1.2.840.10008.1.2.1.99",  // Deflated Explicit VR Little Endian
        "1.2.840.10008.1.2.4.95",  // JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205", // JPIP HTJ2K Referenced Deflate
    };
    return std::any_of(std::begin(deflated), std::end(deflated),
                       [&](const char *uid) { return transferSyntax == uid; });
}

// Scans the data set as it lies at file.dataset.
ScanEnd scanBody(File &file, FdStream &stream)
{
    const DcmXfer declared(file.transferSyntax.c_str());
    file.body.setEncapsulation(declared.getXfer() == EXS_RLELossless);
    const E_TransferSyntax known =
        isDeflated(file.transferSyntax) ? EXS_LittleEndianExplicit : declared.getXfer();
    const E_TransferSyntax seen = file.body.detect(stream, EXS_Unknown);
    // What the data look like is believed: vendors declare wrongly, and have private transfer
    // syntaxes.
    file.xfer = known != EXS_Unknown &&
                        DcmXfer(known).isExplicitVR() == DcmXfer(seen).isExplicitVR() &&
                        DcmXfer(known).getByteOrder() == DcmXfer(seen).getByteOrder()
                    ? known
                    : seen;
    return file.body.scan(stream, file.xfer, file.wanted);
}

int readBody(File &file, struct dicom_answer *answer)
{
    bool deflated = isDeflated(file.transferSyntax);
    if (deflated) {
        // Declared, yet not done: seen in the wild.
        FdStream probe({file.fd, file.dataset, file.size, true});
        unsigned char bytes[8];
        const size_t got = probe.peek(bytes, sizeof(bytes));
        deflated = got > 0 || probe.producer().fault() != FdProducer::Fault::deflate;
    }
    FdStream stream({file.fd, file.dataset, file.size, deflated});
    const ScanEnd end = scanBody(file, stream);
    switch (stream.producer().fault()) {
    case FdProducer::Fault::none:
        break;
    case FdProducer::Fault::io:
        return answerWith(answer, ERR_IO, "it cannot be read");
    case FdProducer::Fault::bomb:
        return answerWith(answer, ERR_HOSTILE, "its deflated data set inflates beyond all measure");
    case FdProducer::Fault::deflate:
        return answerWith(answer, ERR_TRUNCATED, "its deflated data set is damaged");
    case FdProducer::Fault::deflate_cut:
        return answerWith(answer, ERR_TRUNCATED, "it ends within the deflated data set");
    }
    switch (end) {
    case ScanEnd::whole:
        return 0;
    case ScanEnd::too_deep:
        return answerWith(answer, ERR_HOSTILE, file.body.fault().c_str());
    case ScanEnd::malformed:
        if (file.body.elements() == 0) {
            return answerWith(answer, ERR_NOT_DICOM, "no data element can be read in it");
        }
        break;
    case ScanEnd::truncated:
        break;
    }
    return answerWith(answer, ERR_TRUNCATED, file.body.fault().c_str());
}

void fillHeader(File &file, const struct dicom_request *request, struct dicom_answer *answer)
{
    struct dicom_header *header = &answer->header;
    char charset[256];
    elementText(file.body, DCM_SpecificCharacterSet, "", charset, sizeof(charset));
    elementUid(file.body, DCM_SOPClassUID, header->sop_class_uid);
    elementUid(file.body, DCM_SOPInstanceUID, header->sop_instance_uid);
    elementUid(file.body, DCM_StudyInstanceUID, header->study_instance_uid);
    elementUid(file.body, DCM_SeriesInstanceUID, header->series_instance_uid);
    std::string transferSyntax = file.transferSyntax;
    if (transferSyntax.empty() && file.xfer != EXS_Unknown && file.body.elements() > 0) {
        transferSyntax = DcmXfer(file.xfer).getXferID();
    }
    if (dicom_codec_is_uid(transferSyntax.c_str())) {
        snprintf(header->transfer_syntax_uid, DICOM_UID_SIZE, "%s", transferSyntax.c_str());
    }
    for (size_t i = 0; i < request->n_tags; i++) {
        const DcmTagKey tag(static_cast<Uint16>(request->tags[i] >> 16),
                            static_cast<Uint16>(request->tags[i] & 0xffff));
        ScannedDataset &from = tag.getGroup() == 0x0002 ? file.meta : file.body;
        header->values[i] =
            elementText(from, tag, charset, values[i], sizeof(values[i])) ? values[i] : nullptr;
    }
}

bool isDirectory(File &file)
{
    char uid[DICOM_UID_SIZE];
    elementUid(file.meta, DCM_MediaStorageSOPClassUID, uid);
    return strcmp(uid, UID_MediaStorageDirectoryStorage) == 0 ||
           file.body.hasSequence(DCM_DirectoryRecordSequence);
}

void readFile(File &file, const struct dicom_request *request, struct dicom_answer *answer)
{
    static const DcmTagKey always[] = {
        DCM_MediaStorageSOPClassUID, DCM_TransferSyntaxUID,
        DCM_SpecificCharacterSet,    DCM_SOPClassUID,
        DCM_SOPInstanceUID,          DCM_StudyInstanceUID,
        DCM_SeriesInstanceUID,       DCM_NumberOfFrames,
        DCM_PixelRepresentation,
    };
    file.wanted.assign(std::begin(always), std::end(always));
    for (size_t i = 0; i < request->n_tags; i++) {
        file.wanted.emplace_back(static_cast<Uint16>(request->tags[i] >> 16),
                                 static_cast<Uint16>(request->tags[i] & 0xffff));
    }
    std::sort(file.wanted.begin(), file.wanted.end());

    if (findStart(file, answer) != 0 || (readMeta(file, answer) != 0 && !isDirectory(file))) {
        return;
    }
    if (isDirectory(file)) {
        answerWith(answer, ERR_NOT_DICOM,
                   "it is a DICOMDIR (a medium's directory), not an instance");
        return;
    }
    if (file.dataset >= file.size) {
        answerWith(answer, file.prefix || file.meta.elements() > 0 ? ERR_TRUNCATED : ERR_NOT_DICOM,
                   "it ends before its data set begins");
        return;
    }
    const int status = readBody(file, answer);
    if (status == ERR_IO) {
        return;
    }
    fillHeader(file, request, answer);
    const bool identified = answer->header.sop_instance_uid[0] != '\0';
    if (isDirectory(file)) {
        answerWith(answer, ERR_NOT_DICOM,
                   "it is a DICOMDIR (a medium's directory), not an instance");
    } else if (!file.prefix && file.meta.elements() == 0 && !identified &&
               file.body.knownElements() < SCAN_PLAUSIBLE) {
        answerWith(answer, ERR_NOT_DICOM,
                   "it has no prefix DICM, and what it begins with is no data set");
    } else if (status == 0 && !identified) {
        DcmElement *element = nullptr;
        answerWith(answer, ERR_NO_UID,
                   file.body.findAndGetElement(DCM_SOPInstanceUID, element).bad()
                       ? "the element is missing"
                   : element->getLengthField() == 0 ? "the element is empty"
                                                    : "the element holds something that is no UID");
    }
}

} // namespace

extern "C" int dicom_shim_init(struct err *e)
{
    try {
        OFLog::configure(OFLogger::OFF_LOG_LEVEL);
        dcmEnableUnknownVRConversion.set(OFTrue);
        dcmEnableAutomaticInputDataCorrection.set(OFFalse);
        if (!dcmDataDict.isDictionaryLoaded()) {
            return err_set(e, ERR_UNSUPPORTED,
                           "DCMTK's data dictionary is not installed (package libdcmtk17)");
        }
    } catch (const std::exception &) {
        return err_set(e, ERR_NOMEM, "DCMTK cannot be set up: out of memory");
    }
    try {
        throw std::bad_alloc(); // so that what the first throw sets up is there behind the sandbox
    } catch (const std::bad_alloc &) {
    }
    if (dicom_charset_init() != 0) {
        return err_set(e, ERR_UNSUPPORTED,
                       "glibc's character set conversions are not installed (gconv modules)");
    }
    return 0;
}

extern "C" void dicom_shim_read(int fd, const struct dicom_request *request,
                                struct dicom_answer *answer)
{
    memset(answer, 0, sizeof(*answer));
    reason[0] = '\0';
    answer->reason = reason;
    answer->header.n_values = request->n_tags;
    try {
        struct stat st;
        if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
            answerWith(answer, ERR_IO, "it is no regular file");
            return;
        }
        File file{};
        file.fd = fd;
        file.size = st.st_size;
        readFile(file, request, answer);
    } catch (const std::bad_alloc &) {
        memset(&answer->header, 0, sizeof(answer->header));
        answer->header.n_values = request->n_tags;
        answerWith(answer, ERR_HOSTILE, "reading it takes too much memory");
    } catch (...) {
        memset(&answer->header, 0, sizeof(answer->header));
        answer->header.n_values = request->n_tags;
        answerWith(answer, ERR_HOSTILE, "the DICOM reader failed on it");
    }
}
